package lambdaapi_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/lambdaapi"
	"github.com/hearth-compute/hearth/controlplane/sigv4"
)

const secret = "a secret of these tests"

// signedSystem is a system that verifies signatures, and its log.
func signedSystem(t *testing.T) (*system, *safeBuffer) {
	t.Helper()
	path, log := filepath.Join(t.TempDir(), "keys"), &safeBuffer{}
	if err := os.WriteFile(path, []byte("[deploy]\naws_access_key_id = AKIDTEST\naws_secret_access_key = "+secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	keys := must[*sigv4.Keys](t)(sigv4.OpenKeys(path, slog.New(slog.DiscardHandler)))
	verifier := sigv4.New(keys, region, "lambda")
	s := newSystem(t, func(c *lambdaapi.Config) {
		c.Verifier, c.Logger = verifier, slog.New(slog.NewTextHandler(log, nil))
	})
	s.Client, s.verifier = s.as("AKIDTEST", secret), verifier
	return s, log
}

// safeBuffer is written by many.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// as is a client with that key.
func (s *system) as(id, secret string) *lambda.Client {
	return lambda.New(lambda.Options{
		Region: region, BaseEndpoint: &s.url, RetryMaxAttempts: 1,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: id, SecretAccessKey: secret}, nil
		}),
	})
}

func TestWhoHasTheKeyMayDoEverything(t *testing.T) {
	t.Parallel()
	s, log := signedSystem(t)
	ctx := t.Context()
	s.withFunction().withLayer()
	s.invoker.set(controlplane.InvokeResult{Executed: "1", Payload: []byte("{}")}, nil)
	must[*lambda.InvokeOutput](t)(s.Invoke(ctx, &lambda.InvokeInput{FunctionName: aws.String(functionBase + "f"), Qualifier: aws.String("$LATEST.PUBLISHED"), Payload: []byte(`{"a":1}`)}))
	if got := string(s.invoker.seen().Payload); got != `{"a":1}` {
		t.Errorf("the function got %s", got)
	}
	must[*lambda.GetLayerVersionByArnOutput](t)(s.GetLayerVersionByArn(ctx, &lambda.GetLayerVersionByArnInput{Arn: aws.String(layerBase + "l:1")}))
	if w, body := s.send(http.MethodGet, s.location(nil), http.NoBody); w.StatusCode != http.StatusOK || body != string(zipOf(t, "one")) {
		t.Errorf("a location needs a signature: %d", w.StatusCode)
	}
	for _, want := range []string{"operation=CreateFunction", "operation=PublishLayerVersion", "access_key=AKIDTEST", "caller=deploy", "answer=ok"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
	if strings.Contains(log.String(), "operation=Invoke") || strings.Contains(log.String(), secret) {
		t.Errorf("the log has too much:\n%s", log)
	}
}

func TestStrangersGetNothingOfAnyOperation(t *testing.T) {
	t.Parallel()
	s, log := signedSystem(t)
	labels := strings.NewReplacer("{FunctionName}", "f", "{LayerName}", "l", "{VersionNumber}", "1", "{CapacityProviderName}", "pool")
	before := s.changed
	for _, op := range lambdaapi.Operations() {
		s.strangers(op, labels.Replace(op.Path))
	}
	if s.changed != before || s.invoker.seen().Function != "" {
		t.Error("a stranger had something done")
	}
	if n := strings.Count(log.String(), "does not verify"); n != 1 {
		t.Errorf("%d lines about strangers, want 1 in ten seconds", n)
	}
}

// strangers ask for an operation without a signature, with that of an unknown
// key, and with a wrong one of a known key.
func (s *system) strangers(op lambdaapi.Operation, path string) {
	s.t.Helper()
	cases := map[string][]string{
		"MissingAuthenticationTokenException": nil, "UnrecognizedClientException": forged(s.t, s.url, op.Method, path, "AKIDOTHER"),
		"InvalidSignatureException": forged(s.t, s.url, op.Method, path, "AKIDTEST"),
	}
	if op.State == lambdaapi.Absent || op.State == lambdaapi.Refused {
		delete(cases, "InvalidSignatureException") // its body is not read, and nothing is done
	}
	for want, headers := range cases {
		w, body := s.send(op.Method, path, strings.NewReader("{}"), headers...)
		if w.StatusCode != http.StatusForbidden || w.Header.Get("X-Amzn-Errortype") != want {
			s.t.Errorf("%s: %d %s, want %s", op.Name, w.StatusCode, body, want)
		}
		if headers == nil && body != `{"Type":"User","message":"Missing Authentication Token"}` {
			s.t.Errorf("%s: %s", op.Name, body)
		}
	}
}

// forged are headers of a request with the body "{}" signed with a wrong secret.
func forged(t *testing.T, url, method, path, id string) []string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url+path, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	const hash = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
	if err := v4.NewSigner().SignHTTP(t.Context(), aws.Credentials{AccessKeyID: id, SecretAccessKey: "wrong"}, r, hash, "lambda", region, time.Now()); err != nil {
		t.Fatal(err)
	}
	return []string{"Authorization", r.Header.Get("Authorization"), "X-Amz-Date", r.Header.Get("X-Amz-Date")}
}

func TestABodyThatWasNotSignedIsRefused(t *testing.T) {
	t.Parallel()
	s, _ := signedSystem(t)
	s.withFunction()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+functionsPath+"/f/invocations", strings.NewReader(`{"a":1}`))
	if err != nil {
		t.Fatal(err)
	}
	const hash = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" // of {}
	if err := v4.NewSigner().SignHTTP(t.Context(), aws.Credentials{AccessKeyID: "AKIDTEST", SecretAccessKey: secret}, r, hash, "lambda", region, time.Now()); err != nil {
		t.Fatal(err)
	}
	w, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Body.Close() }()
	if w.StatusCode != http.StatusForbidden || s.invoker.seen().Function != "" {
		t.Errorf("answered %d", w.StatusCode)
	}
}

// TestLittleIsReadOfAStrangersBody offers a body without end.
func TestLittleIsReadOfAStrangersBody(t *testing.T) {
	t.Parallel()
	var cfg lambdaapi.Config
	s, _ := signedSystem(t)
	newSystem(t, func(c *lambdaapi.Config) { cfg = *c })
	cfg.Verifier = s.verifier
	api := must[*lambdaapi.Server](t)(lambdaapi.New(cfg))
	body := &endless{}
	w := httptest.NewRecorder()
	api.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, functionsPath, body))
	if w.Code != http.StatusForbidden || body.read > 2<<20 {
		t.Errorf("answered %d after %d bytes", w.Code, body.read)
	}
}

// endless is a body without end.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	return len(p), nil
}
