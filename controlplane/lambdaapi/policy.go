package lambdaapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/google/uuid"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// maxPolicy is the greatest policy in bytes, AWS's.
const maxPolicy = 20480

// The patterns of AWS's service model for permissions.
const (
	statementIDText        = `([a-zA-Z0-9-_]+)`
	removedStatementIDText = `([a-zA-Z0-9-_.]+)`
	actionText             = `(lambda:[*]|lambda:[a-zA-Z]+|[*])`
	principalText          = `[^\s]+`
	sourceARNText          = `arn:(aws[a-zA-Z0-9-]*):([a-zA-Z0-9\-])+:((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1})?:(\d{12})?:(.*)`
	accountText            = `\d{12}`
	eventSourceTokenText   = `[a-zA-Z0-9._\-]+` //nolint:gosec // a pattern
	organizationText       = `o-[a-z0-9]{10,32}`
)

var (
	statementIDPattern        = regexp.MustCompile(`^(?:` + statementIDText + `)$`)
	removedStatementIDPattern = regexp.MustCompile(`^(?:` + removedStatementIDText + `)$`)
	actionPattern             = regexp.MustCompile(`^(?:` + actionText + `)$`)
	principalPattern          = regexp.MustCompile(`^(?:` + principalText + `)$`)
	sourceARNPattern          = regexp.MustCompile(`^(?:` + sourceARNText + `)$`)
	accountPattern            = regexp.MustCompile(`^(?:` + accountText + `)$`)
	eventSourceTokenPattern   = regexp.MustCompile(`^(?:` + eventSourceTokenText + `)$`)
	organizationPattern       = regexp.MustCompile(`^(?:` + organizationText + `)$`)
	identityPattern           = regexp.MustCompile(`^arn:aws[a-zA-Z0-9-]*:(iam|sts)::\d{12}:.+$`)
)

// statement is one statement of a policy as IAM writes it.
type statement struct {
	Sid, Effect string
	Principal   any
	Action      string
	Resource    string
	Condition   map[string]map[string]string `json:",omitempty"`
}

func checkPermission(in *lambda.AddPermissionInput) error {
	var c constraints
	c.required("statementId", in.StatementId != nil)
	c.text("statementId", in.StatementId, 1, 100, statementIDPattern, statementIDText)
	c.required("action", in.Action != nil)
	c.text("action", in.Action, 0, 0, actionPattern, actionText)
	c.required("principal", in.Principal != nil)
	c.text("principal", in.Principal, 0, 0, principalPattern, principalText)
	c.text("sourceArn", in.SourceArn, 0, 0, sourceARNPattern, sourceARNText)
	c.text("sourceAccount", in.SourceAccount, 0, 12, accountPattern, accountText)
	c.text("eventSourceToken", in.EventSourceToken, 0, 256, eventSourceTokenPattern, eventSourceTokenText)
	c.text("principalOrgID", in.PrincipalOrgID, 12, 34, organizationPattern, organizationText)
	enum(&c, "functionUrlAuthType", in.FunctionUrlAuthType, in.FunctionUrlAuthType.Values())
	return c.err()
}

// newStatement is the statement a request asks for, on the resource.
func newStatement(in *lambda.AddPermissionInput, resource string) (*statement, error) {
	p, err := principal(*in.Principal, resource)
	if err != nil {
		return nil, err
	}
	out := &statement{Sid: *in.StatementId, Effect: "Allow", Principal: p, Action: *in.Action, Resource: resource}
	add := func(operator, key, value string) {
		if value == "" {
			return
		}
		if out.Condition == nil {
			out.Condition = map[string]map[string]string{}
		}
		if out.Condition[operator] == nil {
			out.Condition[operator] = map[string]string{}
		}
		out.Condition[operator][key] = value
	}
	add("StringEquals", "lambda:FunctionUrlAuthType", string(in.FunctionUrlAuthType))
	add("StringEquals", "aws:PrincipalOrgID", deref(in.PrincipalOrgID))
	add("StringEquals", "AWS:SourceAccount", deref(in.SourceAccount))
	add("StringEquals", "lambda:EventSourceToken", deref(in.EventSourceToken))
	add("ArnLike", "AWS:SourceArn", deref(in.SourceArn))
	if in.InvokedViaFunctionUrl != nil {
		add("Bool", "lambda:InvokedViaFunctionUrl", fmt.Sprint(*in.InvokedViaFunctionUrl))
	}
	return out, nil
}

// principal is who a request names, as IAM writes it: everybody, a service, or
// an identity by its ARN, which for an account is that of its root.
func principal(name, resource string) (any, error) {
	switch {
	case name == "*":
		return name, nil
	case accountPattern.MatchString(name):
		partition := strings.SplitN(resource, ":", 3)[1]
		return map[string]string{"AWS": "arn:" + partition + ":iam::" + name + ":root"}, nil
	case identityPattern.MatchString(name):
		return map[string]string{"AWS": name}, nil
	case strings.HasSuffix(name, ".amazonaws.com"), strings.HasSuffix(name, ".amazonaws.com.cn"):
		return map[string]string{"Service": name}, nil
	}
	return nil, invalidParameter("The provided principal was invalid. Please check the principal and try again.")
}

// document is a policy as IAM writes it.
func document(p *controlplane.Policy) (string, error) {
	var b bytes.Buffer
	b.WriteString(`{"Version":"2012-10-17","Id":"default","Statement":[`)
	for i, s := range p.Statements {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(s.JSON)
	}
	b.WriteString("]}")
	if b.Len() > maxPolicy {
		return "", &exception{name: "PolicyLengthExceededException", status: 400, message: fmt.Sprintf(
			"The final policy size (%d) is bigger than the limit (%d).", b.Len(), maxPolicy)}
	}
	return b.String(), nil
}

// policyOf returns the policy of h. Before there is one its revision is that of
// the version or alias.
func policyOf(h *holder) (p controlplane.Policy, ok bool) {
	p, ok = h.Policies[h.key]
	if !ok {
		p.Revision = h.revision
	}
	p.Statements = slices.Clone(p.Statements)
	return p, ok
}

func (s *Server) addPermission(ctx context.Context, in *lambda.AddPermissionInput) (*lambda.AddPermissionOutput, error) {
	if err := checkPermission(in); err != nil {
		return nil, err
	}
	ref, err := s.function(in.FunctionName, in.Qualifier, 256)
	if err != nil {
		return nil, err
	}
	if ref.Qualifier == controlplane.Latest {
		return nil, invalidParameter("We currently do not support adding policies for $LATEST.")
	}
	added, err := newStatement(in, s.functionARN(ref.Name, ref.Qualifier))
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(added)
	if err != nil {
		return nil, fmt.Errorf("writing a statement: %w", err)
	}
	revision := controlplane.Revision(uuid.NewString())
	err = s.update(ctx, func(w store.Writer) error {
		h, err := s.changeable(w, ref)
		if err != nil {
			return err
		}
		p, _ := policyOf(h)
		if in.RevisionId != nil && *in.RevisionId != string(p.Revision) {
			return otherRevision("GetPolicy")
		}
		if slices.ContainsFunc(p.Statements, func(s controlplane.Statement) bool { return s.ID == added.Sid }) {
			return conflict("The statement id (%s) provided already exists. Please provide a new statement id, or remove the "+
				"existing statement.", added.Sid)
		}
		p.Revision, p.Statements = revision, append(p.Statements, controlplane.Statement{ID: added.Sid, JSON: string(text)})
		if _, err := document(&p); err != nil {
			return err
		}
		put(&h.Policies, h.key, p)
		return w.PutFunction(*h.Function)
	})
	if err != nil {
		return nil, err
	}
	return &lambda.AddPermissionOutput{Statement: new(string(text))}, nil
}

func (s *Server) removePermission(ctx context.Context, in *lambda.RemovePermissionInput) error {
	var c constraints
	c.required("statementId", in.StatementId != nil)
	c.text("statementId", in.StatementId, 1, 100, removedStatementIDPattern, removedStatementIDText)
	if err := c.err(); err != nil {
		return err
	}
	ref, err := s.function(in.FunctionName, in.Qualifier, 256)
	if err != nil {
		return err
	}
	revision := controlplane.Revision(uuid.NewString())
	return s.update(ctx, func(w store.Writer) error {
		if _, err := s.readFunction(w, reference{Name: ref.Name}); err != nil {
			return unlessMissing(err, "No policy found for: %s", s.functionARN(ref.Name, ""))
		}
		h, err := s.changeable(w, ref)
		if err != nil {
			return err
		}
		p, ok := policyOf(h)
		if !ok {
			return notFound("No policy is associated with the given resource.")
		}
		i := slices.IndexFunc(p.Statements, func(s controlplane.Statement) bool { return s.ID == *in.StatementId })
		switch {
		case i < 0:
			return notFound("Statement %s is not found in resource policy.", *in.StatementId)
		case in.RevisionId != nil && *in.RevisionId != string(p.Revision):
			return otherRevision("GetPolicy")
		}
		p.Revision, p.Statements = revision, slices.Delete(p.Statements, i, i+1)
		put(&h.Policies, h.key, p)
		if len(p.Statements) == 0 {
			delete(h.Policies, h.key)
		}
		return w.PutFunction(*h.Function)
	})
}

func (s *Server) getPolicy(ctx context.Context, in *lambda.GetPolicyInput) (*lambda.GetPolicyOutput, error) {
	ref, err := s.function(in.FunctionName, in.Qualifier, 256)
	if err != nil {
		return nil, err
	}
	out := &lambda.GetPolicyOutput{}
	err = s.cfg.DB.View(ctx, func(r store.Reader) error {
		h, err := s.holder(r, ref)
		if err != nil {
			return unlessMissing(err, "The resource you requested does not exist.")
		}
		p, ok := policyOf(h)
		if !ok {
			return notFound("The resource you requested does not exist.")
		}
		text, err := document(&p)
		out.Policy, out.RevisionId = &text, new(string(p.Revision))
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
