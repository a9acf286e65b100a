package lambdaapi

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"

	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// The patterns of AWS's service model for permissions of layers.
const (
	layerActionText    = `lambda:GetLayerVersion`
	layerPrincipalText = `\d{12}|\*|arn:(aws[a-zA-Z-]*):iam::\d{12}:root`
)

var (
	layerActionPattern    = regexp.MustCompile(`^(?:` + layerActionText + `)$`)
	layerPrincipalPattern = regexp.MustCompile(`^(?:` + layerPrincipalText + `)$`)
)

func checkLayerPermission(in *lambda.AddLayerVersionPermissionInput) error {
	var c constraints
	c.required("statementId", in.StatementId != nil)
	c.text("statementId", in.StatementId, 1, 100, statementIDPattern, statementIDText)
	c.required("action", in.Action != nil)
	c.text("action", in.Action, 0, 22, layerActionPattern, layerActionText)
	c.required("principal", in.Principal != nil)
	c.text("principal", in.Principal, 0, 0, layerPrincipalPattern, layerPrincipalText)
	c.text("organizationId", in.OrganizationId, 0, 34, organizationPattern, organizationText)
	return c.err()
}

// layerStatement is the statement a request asks for, as IAM writes it.
func layerStatement(in *lambda.AddLayerVersionPermissionInput, resource string) ([]byte, error) {
	p, err := principal(*in.Principal, resource)
	if err != nil {
		return nil, err
	}
	out := statement{Sid: *in.StatementId, Effect: "Allow", Principal: p, Action: *in.Action, Resource: resource}
	if in.OrganizationId != nil {
		out.Condition = map[string]map[string]string{"StringEquals": {"aws:PrincipalOrgID": *in.OrganizationId}}
	}
	text, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("writing a statement: %w", err)
	}
	return text, nil
}

func (s *Server) addLayerVersionPermission(ctx context.Context, in *lambda.AddLayerVersionPermissionInput,
) (*lambda.AddLayerVersionPermissionOutput, error) {
	if err := checkLayerPermission(in); err != nil {
		return nil, err
	}
	ref, err := s.layerVersion(in.LayerName, in.VersionNumber)
	if err != nil {
		return nil, err
	}
	text, err := layerStatement(in, s.layerVersionARN(ref))
	if err != nil {
		return nil, err
	}
	revision := controlplane.Revision(uuid.NewString())
	err = s.update(ctx, func(w store.Writer) error {
		v, err := s.permitted(w, ref)
		if err != nil {
			return err
		}
		p := &v.Policy
		if slices.ContainsFunc(p.Statements, func(s controlplane.Statement) bool { return s.ID == *in.StatementId }) {
			return conflict("The statement id (%s) provided already exists. Please provide a new statement id, or remove the "+
				"existing statement.", *in.StatementId)
		}
		if in.RevisionId != nil && *in.RevisionId != string(p.Revision) {
			return otherRevision("GetLayerPolicy")
		}
		p.Revision, p.Statements = revision, append(p.Statements, controlplane.Statement{ID: *in.StatementId, JSON: string(text)})
		if _, err := document(p); err != nil {
			return err
		}
		return w.PutLayerVersion(v)
	})
	if err != nil {
		return nil, err
	}
	return &lambda.AddLayerVersionPermissionOutput{Statement: new(string(text)), RevisionId: new(string(revision))}, nil
}

// permitted reads a version whose permissions are asked for.
func (s *Server) permitted(r store.Reader, ref layerRef) (controlplane.LayerVersion, error) {
	v, err := r.LayerVersion(ref.layer, ref.number)
	if errdefs.IsNotFound(err) {
		err = notFound("Layer version %s does not exist.", s.layerVersionARN(ref))
	}
	return v, err
}

func (s *Server) removeLayerVersionPermission(ctx context.Context, in *lambda.RemoveLayerVersionPermissionInput) error {
	var c constraints
	c.required("statementId", in.StatementId != nil)
	c.text("statementId", in.StatementId, 1, 100, statementIDPattern, statementIDText)
	if err := c.err(); err != nil {
		return err
	}
	ref, err := s.layerVersion(in.LayerName, in.VersionNumber)
	if err != nil {
		return err
	}
	revision := controlplane.Revision(uuid.NewString())
	return s.update(ctx, func(w store.Writer) error {
		v, err := s.permitted(w, ref)
		if err != nil {
			return err
		}
		p := &v.Policy
		i := slices.IndexFunc(p.Statements, func(s controlplane.Statement) bool { return s.ID == *in.StatementId })
		switch {
		case len(p.Statements) == 0:
			return notFound("No policy is associated with the given resource.")
		case i < 0:
			return notFound("Statement %s is not found in resource policy.", *in.StatementId)
		case in.RevisionId != nil && *in.RevisionId != string(p.Revision):
			return otherRevision("GetLayerPolicy")
		}
		p.Revision, p.Statements = revision, slices.Delete(p.Statements, i, i+1)
		return w.PutLayerVersion(v)
	})
}

func (s *Server) getLayerVersionPolicy(ctx context.Context, in *lambda.GetLayerVersionPolicyInput) (*lambda.GetLayerVersionPolicyOutput, error) {
	ref, err := s.layerVersion(in.LayerName, in.VersionNumber)
	if err != nil {
		return nil, err
	}
	out := &lambda.GetLayerVersionPolicyOutput{}
	err = s.cfg.DB.View(ctx, func(r store.Reader) error {
		v, err := s.permitted(r, ref)
		if err != nil {
			return err
		}
		if len(v.Policy.Statements) == 0 {
			return notFound("No policy is associated with the given resource.")
		}
		text, err := document(&v.Policy)
		out.Policy, out.RevisionId = &text, new(string(v.Policy.Revision))
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
