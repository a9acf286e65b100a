package up

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane/sigv4"
)

// Provider is the capacity provider that functions run on which name none.
type Provider struct {
	// Name may be empty: there is none.
	Name string
	// AccountID is that of its operator role, which nothing here assumes.
	AccountID string
	// Region and AccessKeysFile are those of the API; without a file it believes
	// everybody.
	Region, AccessKeysFile string
}

// create makes the provider, with three zones, unless it exists. Errors:
// Unavailable.
func (p Provider) create(ctx context.Context, address string) error {
	if p.Name == "" {
		return nil
	}
	architecture := "x86_64"
	if runtime.GOARCH == "arm64" {
		architecture = "arm64"
	}
	type object map[string]any
	body, err := json.Marshal(object{
		"CapacityProviderName": p.Name,
		"VpcConfig":            object{"SubnetIds": []string{"zone-a", "zone-b", "zone-c"}, "SecurityGroupIds": []string{}},
		"PermissionsConfig":    object{"CapacityProviderOperatorRoleArn": "arn:aws:iam::" + p.AccountID + ":role/hearth"},
		"InstanceRequirements": object{"Architectures": []string{architecture}},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errTooSlow)
	defer cancel()
	url := "http://" + reachable(address) + "/2025-11-30/capacity-providers"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if err := p.sign(req, body); err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("making the capacity provider %s: %w: %w", p.Name, err, errdefs.ErrUnavailable)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusAccepted || resp.StatusCode == http.StatusConflict { // made, or there already
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	return fmt.Errorf("making the capacity provider %s: %s: %s: %w", p.Name, resp.Status, text, errdefs.ErrUnavailable)
}

// sign signs the request with a key of the API's own file.
func (p Provider) sign(r *http.Request, body []byte) error {
	if p.AccessKeysFile == "" {
		return nil
	}
	keys, err := sigv4.OpenKeys(p.AccessKeysFile, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	var c aws.Credentials
	c.AccessKeyID, c.SecretAccessKey, c.SessionToken = keys.First()
	hash := sha256.Sum256(body)
	return v4.NewSigner().SignHTTP(r.Context(), c, r, hex.EncodeToString(hash[:]), "lambda", p.Region, time.Now())
}
