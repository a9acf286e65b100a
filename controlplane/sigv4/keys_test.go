package sigv4

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
)

func TestAFileOfKeysIsRead(t *testing.T) {
	t.Parallel()
	k := keysOf(t, "; comment\n\n[ ci ]\nAWS_Access_Key_Id = A\naws_secret_access_key = "+exampleSecret+"\n[profile only]\nregion = eu-west-1\n"+
		"[b]\naws_secret_access_key=with=equal=signs==\naws_access_key_id=B\naws_session_token=t\n")
	text := func(k *key) [4]string { return [4]string{k.id, k.secret, k.token, k.name} }
	for _, want := range []*key{{id: "A", secret: exampleSecret, name: "ci"}, {id: "B", secret: "with=equal=signs==", token: "t", name: "b"}} {
		if got := k.find(want.id); got == nil || text(got) != text(want) {
			t.Errorf("key %+v, want %+v", got, want)
		}
	}
	if b := k.find("B"); !b.hasToken("t") || b.hasToken("") || k.find("A").hasToken("t") {
		t.Error("tokens are taken for others")
	}
	if id, secret, token := k.First(); [3]string{id, secret, token} != [3]string{"A", exampleSecret, ""} {
		t.Errorf("the first key is %s, %s, %s", id, secret, token)
	}
	if k.find("") != nil || k.find("C") != nil {
		t.Error("a key of nobody")
	}
}

func TestAFileThatIsNotAsItShouldBeIsRefused(t *testing.T) {
	t.Parallel()
	const good = "aws_access_key_id=A\naws_secret_access_key=" + exampleSecret + "\n"
	for name, c := range map[string]struct{ content, want string }{
		"nothing":        {"", "there is no key"},
		"no key":         {"[a]\nregion=x\n", "there is no key"},
		"no secret":      {"[a]\naws_access_key_id=A\n", `section "a": aws_secret_access_key has fewer than 16 characters`},
		"a short secret": {"[a]\naws_access_key_id=A\naws_secret_access_key=short\n", `section "a": aws_secret_access_key has fewer than 16 characters`},
		"no id":          {"[a]\naws_secret_access_key=" + exampleSecret, `section "a": aws_access_key_id is missing or strange`},
		"a strange id":   {"[a]\naws_access_key_id=A/B\naws_secret_access_key=" + exampleSecret, `section "a": aws_access_key_id is missing or strange`},
		"a key twice":    {"[a]\n" + good + "[b]\n" + good, `section "b": the key of section "a" again`},
		"another form":   {"[a]\n" + exampleSecret, "line 2 is neither a [section] nor NAME = VALUE"},
		"too much":       {strings.Repeat("#\n", maxFile), "more than 1048576 bytes"},
	} {
		path := filepath.Join(t.TempDir(), "keys")
		if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := OpenKeys(path, slog.New(slog.DiscardHandler))
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), exampleSecret) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := OpenKeys(filepath.Join(t.TempDir(), "none"), slog.New(slog.DiscardHandler)); !errdefs.IsUnavailable(err) {
		t.Errorf("no file: %v", err)
	}
}

func TestAChangedFileCountsWithinSecondsAndABrokenOneNot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		path, log := filepath.Join(dir, "keys"), &bytes.Buffer{}
		write := func(content string) {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			time.Sleep(reloadInterval + time.Second)
			synctest.Wait()
		}
		key := func(id string) string {
			return "[n]\naws_access_key_id=" + id + "\naws_secret_access_key=" + exampleSecret + "\n"
		}
		if err := os.WriteFile(path, []byte(key("A")), 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := OpenKeys(path, slog.New(slog.NewTextHandler(log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()
		write(key("B"))
		if k.find("A") != nil || k.find("B") == nil {
			t.Error("the changed file does not count")
		}
		write("broken")
		time.Sleep(10 * reloadInterval)
		if k.find("B") == nil {
			t.Error("a broken file counts")
		}
		if n := strings.Count(log.String(), "not used"); n != 1 {
			t.Errorf("said %d times that it is broken", n)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		write(key("C"))
		if k.find("C") == nil {
			t.Error("the repaired file does not count")
		}
		cancel(nil)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
