//go:build node

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/google/go-cmp/cmp"
)

// roles is a service that assumes roles. Its sessions live as long as it says.
type roles struct {
	mu     sync.Mutex
	life   time.Duration
	issued map[string]int // by role
	names  []string       // of sessions
	signed []string       // by whom requests were signed
}

// serveRoles serves it until the end of the test.
func serveRoles(t *testing.T, life time.Duration) (*roles, string) {
	t.Helper()
	r := &roles{life: life, issued: map[string]int{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: r}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return r, "http://" + l.Addr().String()
}

func (r *roles) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	arn := req.PostFormValue("RoleArn")
	name := arn[strings.LastIndex(arn, "/")+1:]
	_, by, _ := strings.Cut(req.Header.Get("Authorization"), "Credential=")
	by, _, _ = strings.Cut(by, "/")
	r.names, r.signed = append(r.names, req.PostFormValue("RoleSessionName")), append(r.signed, by)
	if name == "refused" {
		w.WriteHeader(http.StatusForbidden)
		_, _ = fmt.Fprint(w, `<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>`)
		return
	}
	r.issued[name]++
	_, _ = fmt.Fprintf(w, `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
<AccessKeyId>ASIA-%s-%d</AccessKeyId><SecretAccessKey>s3cret</SecretAccessKey><SessionToken>t0ken</SessionToken><Expiration>%s</Expiration>
</Credentials></AssumeRoleResult></AssumeRoleResponse>`, name, r.issued[name], time.Now().Add(r.life).UTC().Format(time.RFC3339))
}

// called is what the caller answers.
type called struct {
	AccessKey, Error string
	Variables        []string
}

// callsAWS invokes a caller.
func (s *stack) callsAWS(name string) (c called, err error) {
	out, err := s.lambda.Invoke(s.t.Context(), &lambda.InvokeInput{FunctionName: aws.String(name)})
	if err != nil {
		return c, err
	}
	if out.FunctionError != nil {
		return c, fmt.Errorf("%s", out.Payload)
	}
	return c, json.Unmarshal(out.Payload, &c)
}

// caller creates a function that calls AWS with a role.
func (s *stack) caller(t *testing.T, name, role string) {
	t.Helper()
	in := s.input(func(in *lambda.CreateFunctionInput) {
		in.FunctionName, in.Role = aws.String(name), aws.String("arn:aws:iam::"+account+":role/service/"+role)
		in.Code.ZipFile, in.MemorySize = archive(t, "caller"), aws.Int32(256)
	})
	if _, err := s.lambda.CreateFunction(t.Context(), in); err != nil {
		t.Fatal(err)
	}
}

// TestFunctionsFindTheirRolesCredentials: AWS's SDK, as it is, finds credentials
// of the function's role, then those that follow them, and never anybody
// else's.
func TestFunctionsFindTheirRolesCredentials(t *testing.T) {
	const life = 8 * time.Second
	sts, endpoint := serveRoles(t, life)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAHOST")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "host")
	s := up(t, func(s *stack) { s.flags = append(s.flags, "--assume-roles", "--sts-endpoint", endpoint) })
	s.provider("subnet-a")
	names := map[string]string{"thumb": "pictures", "mail": "letters", "locked": "refused"}
	for name, role := range names {
		s.caller(t, name, role)
	}
	for name := range names {
		s.published(t, name, settled)
	}
	for _, name := range []string{"thumb", "mail"} {
		s.credentialsFollow(t, name, "ASIA-"+names[name]+"-", life)
	}
	if got, err := s.callsAWS("locked"); err != nil || got.AccessKey != "" || !strings.Contains(got.Error, "There are no credentials of the execution role now") {
		t.Errorf("with a role that cannot be assumed: got %+v, %v", got, err)
	}
	sts.assumed(t, "AKIAHOST", "locked", "mail", "thumb")
	s.hasNo("s3cret", "t0ken")
}

// credentialsFollow: a function finds credentials with a prefix, then others.
func (s *stack) credentialsFollow(t *testing.T, name, prefix string, life time.Duration) {
	t.Helper()
	first, err := s.callsAWS(name)
	if err != nil || !strings.HasPrefix(first.AccessKey, prefix) {
		t.Fatalf("%s: got %+v, %v", name, first, err)
	}
	if d := cmp.Diff([]string{"AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_CONTAINER_CREDENTIALS_FULL_URI"}, slices.Sorted(slices.Values(first.Variables))); d != "" {
		t.Errorf("%s: %s", name, d)
	}
	begin := time.Now()
	s.eventually(2*life, "other credentials", func() error {
		next, err := s.callsAWS(name)
		if err != nil {
			return err
		}
		if next.AccessKey == first.AccessKey || !strings.HasPrefix(next.AccessKey, prefix) {
			return fmt.Errorf("got %+v", next)
		}
		return nil
	})
	t.Logf("%s had others after %v of %v", name, time.Since(begin).Round(time.Millisecond), life)
}

// assumed wants roles to have been assumed by one access key, in sessions of
// these names.
func (r *roles) assumed(t *testing.T, by string, names ...string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if got := slices.Compact(slices.Sorted(slices.Values(r.signed))); !slices.Equal(got, []string{by}) {
		t.Errorf("roles were assumed by %v", got)
	}
	if got := slices.Compact(slices.Sorted(slices.Values(r.names))); !slices.Equal(got, names) {
		t.Errorf("sessions are called %v", got)
	}
}

// hasNo fails if a file of the stack, logs of agents among them, has one of these
// words. Images of /tmp are too large to look into, and functions' own.
func (s *stack) hasNo(secrets ...string) {
	s.t.Helper()
	const large = 64 << 20
	looked := 0
	err := filepath.WalkDir(s.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil //nolint:nilerr // it went away
		}
		if info, err := entry.Info(); err != nil || info.Size() > large {
			return nil //nolint:nilerr // it went away
		}
		s.without(path, secrets)
		looked++
		return nil
	})
	s.without(s.log.Name(), secrets)
	if err != nil || looked < 5 {
		s.t.Errorf("looked at %d files: %v", looked, err)
	}
}

func (s *stack) without(path string, secrets []string) {
	s.t.Helper()
	body, err := os.ReadFile(path)
	if err != nil {
		return // it went away
	}
	for _, secret := range secrets {
		if bytes.Contains(body, []byte(secret)) {
			s.t.Errorf("%s has %s", path, secret)
		}
	}
}

// TestWithoutAWSFunctionsFindNoCredentials nor the way to them.
func TestWithoutAWSFunctionsFindNoCredentials(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAHOST")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "host")
	s := up(t)
	s.provider("subnet-a")
	s.caller(t, "thumb", "pictures")
	s.published(t, "thumb", settled)
	got, err := s.callsAWS("thumb")
	if err != nil || got.AccessKey != "" || got.Error == "" || len(got.Variables) > 0 {
		t.Errorf("got %+v, %v", got, err)
	}
}
