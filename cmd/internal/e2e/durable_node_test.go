//go:build node

package e2e

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/artifact"
	"github.com/hearth-compute/hearth/controlplane/sessions"
	"github.com/hearth-compute/hearth/controlplane/store"
	"github.com/hearth-compute/hearth/controlplane/store/sqlite"
)

// written is what a caller was told.
type written struct{ name, sha256 string }

// TestWhatWasAcknowledgedSurvivesALossOfPower: hearth-control keeps its data on
// a disk of its own. Right after each acknowledgement the disk is copied as it
// is, without what only the kernel knew. Every copy has every function
// acknowledged until then, with its code, and the authority the agents trust.
func TestWhatWasAcknowledgedSurvivesALossOfPower(t *testing.T) {
	t.Parallel()
	d := newDisk(t, 64<<20)
	data := filepath.Join(d.dir, "data")
	ports := freeAddresses(t, 4)
	s := &stack{t: t, dir: data, api: "http://" + ports[0], operator: ports[2], metrics: "http://" + ports[3]}
	s.lambda = lambda.New(lambda.Options{Region: region, BaseEndpoint: aws.String(s.api), HTTPClient: &http.Client{}, Retryer: aws.NopRetryer{}, Credentials: anybody()})
	launch(t, "hearth-control", "--fleet", "static", "--data-dir", data, "--listen", ports[0], "--agent-listen", ports[1],
		"--operator-listen", ports[2], "--metrics-listen", ports[3], "--runtime-image", "provided.al2023=builtin:static")
	s.eventually(20*time.Second, "hearth-control to be ready", func() error { return s.get("/readyz") })
	s.provider("rack-1")
	authority, err := os.ReadFile(filepath.Join(data, "ca", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	var acknowledged []written
	copies := t.TempDir()
	for n := range 8 {
		name := fmt.Sprintf("f%d", n)
		code := make([]byte, 64<<10)
		_, _ = rand.Read(code) // never fails
		out, err := s.lambda.CreateFunction(t.Context(), s.input(func(in *lambda.CreateFunctionInput) {
			in.FunctionName, in.Code.ZipFile, in.Publish, in.PublishTo = aws.String(name), archiveOf(t, string(code)), n%2 == 0, ""
		}))
		if err != nil {
			t.Fatal(err)
		}
		image := filepath.Join(copies, name)
		tool(t, "cp", "--sparse=always", d.image, image)
		acknowledged = append(acknowledged, written{name, aws.ToString(out.CodeSha256)})
		wantOnDisk(t, mountCopy(t, image), acknowledged, authority)
	}
}

// mountCopy mounts a copy of a disk until the end of the test.
func mountCopy(t *testing.T, image string) (data string) {
	t.Helper()
	dir := image + ".d"
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	tool(t, "mount", "-o", "loop", image, dir)
	t.Cleanup(func() { tool(t, "umount", dir) })
	return filepath.Join(dir, "data")
}

// wantOnDisk reads a data directory as the next hearth-control would.
func wantOnDisk(t *testing.T, dir string, want []written, authority []byte) {
	t.Helper()
	if got, err := os.ReadFile(filepath.Join(dir, "ca", "ca.pem")); err != nil || string(got) != string(authority) {
		t.Errorf("the authority: %v, %q; want that of the running one", err, got)
	}
	if _, err := sessions.OpenCA(filepath.Join(dir, "ca"), time.Now()); err != nil {
		t.Error(err)
	}
	db, err := sqlite.Open(t.Context(), filepath.Join(dir, "hearth.db"))
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = db.Close() }()
	archives, err := artifact.OpenDir(filepath.Join(dir, "artifacts"))
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = archives.Close() }()
	for _, w := range want {
		err := db.View(t.Context(), func(r store.Reader) error {
			_, err := r.Function(controlplane.FunctionName(w.name))
			return err
		})
		if err != nil {
			t.Errorf("after %d acknowledgements: %v", len(want), err)
		}
		if got, err := digest(t, archives, w.sha256); got != w.sha256 {
			t.Errorf("after %d acknowledgements the code of %s: %v, %s; want %s", len(want), w.name, err, got, w.sha256)
		}
	}
}

// digest reads an archive, named by its SHA-256 in base64, and returns that of
// what is there.
func digest(t *testing.T, archives *artifact.Store, sha string) (string, error) {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(sha)
	if err != nil {
		return "", err
	}
	r, err := archives.Open(t.Context(), hex.EncodeToString(raw))
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(h.Sum(nil)), nil
}
