package credentials_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/credentials"
)

const issued = `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
<Credentials><AccessKeyId>ASIA1</AccessKeyId><SecretAccessKey>s3cret</SecretAccessKey><SessionToken>t0ken</SessionToken>%s</Credentials>
</AssumeRoleResult></AssumeRoleResponse>`

const denied = `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>AccessDenied</Code>
<Message>User: anybody is not authorized to perform: sts:AssumeRole</Message></Error></ErrorResponse>`

// serve answers as AWS's Security Token Service.
func serve(t *testing.T, status int, body string) (*credentials.STS, *http.Request) {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAHOST")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "host")
	seen := &http.Request{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		*seen = *r
		w.Header().Set("Content-Type", "text/xml")
		w.WriteHeader(status)
		_, _ = fmt.Fprint(w, body)
	}))
	t.Cleanup(srv.Close)
	sts, err := credentials.NewSTS(t.Context(), "eu-west-1", srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	return sts, seen
}

func TestARoleIsAssumedAsTheHostInTheFunctionsName(t *testing.T) {
	sts, seen := serve(t, http.StatusOK, fmt.Sprintf(issued, "<Expiration>2030-01-02T03:04:05Z</Expiration>"))
	got, err := sts.Assume(t.Context(), role, "thumb")
	if err != nil {
		t.Fatal(err)
	}
	type fields struct {
		Role, Key, Secret, Token string
		Ends                     time.Time
	}
	want := fields{role, "ASIA1", "s3cret", "t0ken", time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)}
	if d := cmp.Diff(want, fields{got.RoleARN, got.AccessKeyID, got.SecretAccessKey, got.SessionToken, got.ExpiresAt}); d != "" {
		t.Error(d)
	}
	for name, want := range map[string]string{"Action": "AssumeRole", "RoleArn": role, "RoleSessionName": "thumb"} {
		if got := seen.PostForm.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if a := seen.Header.Get("Authorization"); !strings.Contains(a, "AKIAHOST/") || !strings.Contains(a, "/eu-west-1/sts/") {
		t.Errorf("signed as %q", a)
	}
}

func TestWhatSTSRefusesSaysWhyAndAnIncompleteAnswerIsNone(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		says   string
	}{
		"denied":     {http.StatusForbidden, denied, "AccessDenied: User: anybody is not authorized"},
		"incomplete": {http.StatusOK, fmt.Sprintf(issued, ""), "has no credentials"},
	} {
		sts, _ := serve(t, c.status, c.body)
		_, err := sts.Assume(t.Context(), role, "thumb")
		if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), role) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestPrintedCredentialsAreNoSecret(t *testing.T) {
	t.Parallel()
	c := controlplane.RoleCredentials{RoleARN: role, AccessKeyID: "ASIA1", SecretAccessKey: "s3cret", SessionToken: "t0ken"}
	text, err := c.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []string{fmt.Sprintf("%v %+v %#v", c, c, c), string(text)} {
		if strings.Contains(got, "s3cret") || strings.Contains(got, "t0ken") {
			t.Errorf("got %s", got)
		}
	}
}
