package bucket_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/bucket"
)

// fakeS3 has the object "a/b.zip", its versions v1 and v2, and one that is not
// to be read.
func fakeS3(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, code, message string) {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>%s</Message></Error>`, code, message)
	}
	switch r.URL.Path + "?" + r.URL.Query().Get("versionId") {
	case "/real/a/b.zip?", "/real/a/b.zip?v2":
		_, _ = w.Write([]byte("two"))
	case "/real/a/b.zip?v1":
		_, _ = w.Write([]byte("one"))
	case "/real/a/b.zip?v3":
		refuse(http.StatusNotFound, "NoSuchVersion", "The specified version does not exist.")
	case "/real/secret?":
		refuse(http.StatusForbidden, "AccessDenied", "Access Denied")
	case "/real/broken?":
		refuse(http.StatusNotImplemented, "NotImplemented", "x")
	case "/gone/a?":
		refuse(http.StatusNotFound, "NoSuchBucket", "The specified bucket does not exist")
	default:
		refuse(http.StatusNotFound, "NoSuchKey", "The specified key does not exist.")
	}
}

// buckets are some in S3 and some in directories.
func buckets(t *testing.T) *bucket.Buckets {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(fakeS3))
	t.Cleanup(srv.Close)
	dir := filepath.Join(t.TempDir(), "dir")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "f.zip"), []byte("file"), 0o600); err != nil {
		t.Fatal(err)
	}
	s3 := func(name string) string {
		return "s3://" + name + "?region=us-east-1&anonymous=true&use_path_style=true&endpoint=" + srv.URL
	}
	return bucket.New(map[string]string{
		"real": s3("real"), "gone": s3("gone"), "dir": "file://" + dir, "nodir": "file://" + dir + "/none",
	}, "us-east-1")
}

func TestObjectsAreReadOrRefusedInTheWordsOfS3(t *testing.T) {
	t.Parallel()
	b := buckets(t)
	const noKey = "The specified key does not exist."
	for _, c := range []struct {
		bucket, key, version string
		want, code, message  string
	}{
		{"real", "a/b.zip", "", "two", "", ""},
		{"real", "a/b.zip", "v1", "one", "", ""},
		{"real", "a/b.zip", "v3", "", "NoSuchVersion", "The specified version does not exist."},
		{"real", "none", "", "", "NoSuchKey", noKey},
		{"real", "secret", "", "", "AccessDenied", "Access Denied"},
		{"gone", "a", "", "", "NoSuchBucket", "The specified bucket does not exist"},
		{"dir", "f.zip", "", "file", "", ""},
		{"dir", "f.zip", "v1", "", "NoSuchVersion", "The specified version does not exist."},
		{"dir", "none", "", "", "NoSuchKey", noKey},
		{"dir", "../dir/f.zip", "", "", "NoSuchKey", noKey},
		{"nodir", "f.zip", "", "", "NoSuchBucket", "The specified bucket does not exist"},
	} {
		object := controlplane.Object{Bucket: c.bucket, Key: c.key, Version: c.version}
		got, err := b.Read(t.Context(), object, 4)
		if string(got) != c.want || (err == nil) != (c.code == "") {
			t.Errorf("%+v: got %q, %v, want %q", object, got, err, c.want)
		}
		if e, ok := errors.AsType[*controlplane.ObjectError](err); err != nil &&
			(!ok || e.Code != c.code || e.Message != c.message || !errdefs.IsInvalidArgument(err)) {
			t.Errorf("%+v: got %v, want %s: %s", object, err, c.code, c.message)
		}
	}
}

func TestWhatIsTooLargeOrOutOfReachIsNotRead(t *testing.T) {
	t.Parallel()
	b := buckets(t)
	_, err := b.Read(t.Context(), controlplane.Object{Bucket: "dir", Key: "f.zip"}, 3)
	if e, ok := errors.AsType[*controlplane.ObjectError](err); !ok || e.Code != controlplane.ObjectTooLarge {
		t.Errorf("four bytes of at most three: %v", err)
	}
	if _, err := b.Read(t.Context(), controlplane.Object{Bucket: "real", Key: "broken"}, 4); !errdefs.IsUnavailable(err) {
		t.Errorf("of a store that is broken: got %v, want Unavailable", err)
	}
}

func TestOnlyURLsOfBucketsAreTaken(t *testing.T) {
	t.Parallel()
	for url, valid := range map[string]bool{
		"file:///srv/code": true, "s3://bucket?endpoint=http://127.0.0.1:9000&use_path_style=true": true,
		"/srv/code": false, "http://x/y": false, "": false, "%": false,
	} {
		if err := bucket.Check(url); (err == nil) != valid || !valid && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", url, err)
		}
	}
}
