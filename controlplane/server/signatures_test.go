package server_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"github.com/hearth-compute/hearth/controlplane/server"
)

func TestSignaturesAreVerifiedOffLoopbackUnlessItIsSaid(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ listen, keys, sigv4, fault string }{
		"loopback":                  {"127.0.0.1:9000", "", "auto", ""},
		"loopback, said":            {"127.0.0.1:9000", "", "on", "--access-keys-file: is required with --sigv4=on"},
		"loopback with keys":        {"127.0.0.1:9000", "keys", "auto", ""},
		"off loopback":              {"0.0.0.0:9000", "", "auto", "--access-keys-file: is required: 0.0.0.0:9000 is not a loopback address; say --sigv4=off if everybody may call"},
		"off loopback, said":        {"0.0.0.0:9000", "", "off", ""},
		"off loopback with keys":    {"0.0.0.0:9000", "keys", "auto", ""},
		"off loopback, not zero":    {"0.0.0.0:9000", "", "", "--access-keys-file: is required"},
		"something else altogether": {"127.0.0.1:9000", "", "maybe", `--sigv4: "maybe" is none of auto, on and off`},
	} {
		cfg := server.Default()
		cfg.Listen, cfg.AccessKeysFile, cfg.SigV4, cfg.Insecure = c.listen, c.keys, c.sigv4, true
		if got := fmt.Sprint(cfg.Validate()); c.fault == "" && got != "<nil>" || !strings.Contains(got, c.fault) {
			t.Errorf("%s: %s, want %s", name, got, c.fault)
		}
	}
}

func TestAServiceWithKeysWantsSignatures(t *testing.T) {
	t.Parallel()
	cfg := server.Default()
	cfg.Listen, cfg.AgentListen, cfg.OperatorListen, cfg.MetricsListen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.DataDir, cfg.Fleet, cfg.Logger, cfg.AccessKeysFile = t.TempDir(), "static", slog.New(slog.DiscardHandler), filepath.Join(t.TempDir(), "keys")
	if _, err := server.New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "--access-keys-file") {
		t.Errorf("without the file: %v", err)
	}
	const secret = "a secret of this test"
	if err := os.WriteFile(cfg.AccessKeysFile, []byte("[me]\naws_access_key_id = AKID\naws_secret_access_key = "+secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := server.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	for given, want := range map[string]string{secret: "", "any": "InvalidSignatureException"} {
		_, err := lambda.New(lambda.Options{
			Region: cfg.Region, BaseEndpoint: aws.String("http://" + s.Addresses().API), RetryMaxAttempts: 1,
			Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
				return aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: given}, nil
			}),
		}).ListFunctions(ctx, &lambda.ListFunctionsInput{})
		if got := fmt.Sprint(err); want == "" && err != nil || !strings.Contains(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	stop(errors.New("enough"))
	if err := <-done; err != nil {
		t.Error(err)
	}
}
