package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// script writes an executable that answers --help.
func script(t *testing.T, name, body string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+body), 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}

const tree = `case "$*" in
--help) printf 'The tool.\n\nAvailable Commands:\n  completion  shells\n  help        this\n  ps          list\n\nFlags:\n  -h\n' ;;
"ps --help") echo "Lists what runs." ;;
*) exit 2 ;;
esac
`

func TestDocumentsACommandAndItsSubcommands(t *testing.T) {
	out := filepath.Join(t.TempDir(), "reference.md")
	daemon := script(t, "daemon", `echo "Usage: daemon [flags]"`)
	if err := run(t.Context(), out, false, []string{daemon, script(t, "tool", tree)}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.TrimPrefix(string(text), preamble)
	want := "\n## daemon\n\n```text\nUsage: daemon [flags]\n```\n" +
		"\n## tool\n\n```text\nThe tool.\n\nAvailable Commands:\n  completion  shells\n  help        this\n  ps          list\n\nFlags:\n  -h\n```\n" +
		"\n### tool ps\n\n```text\nLists what runs.\n```\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestCheckAcceptsACurrentFileAndRefusesAStaleOne(t *testing.T) {
	out := filepath.Join(t.TempDir(), "reference.md")
	old, changed := script(t, "daemon", "echo old"), script(t, "daemon", "echo changed")
	if err := run(t.Context(), out, false, []string{old}); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), out, true, []string{old}); err != nil {
		t.Errorf("check of a current file: %v", err)
	}
	err := run(t.Context(), out, true, []string{changed})
	if err == nil || !strings.Contains(err.Error(), "make generate") {
		t.Errorf("check of a stale file: %v, want an error that says what to do", err)
	}
}

func TestABinaryThatFailsIsAnErrorWithItsOutput(t *testing.T) {
	out := filepath.Join(t.TempDir(), "reference.md")
	err := run(t.Context(), out, false, []string{script(t, "daemon", "echo broken flags >&2; exit 1")})
	if err == nil || !strings.Contains(err.Error(), "broken flags") {
		t.Errorf("err = %v, want the output in it", err)
	}
	if _, err := os.Stat(out); !os.IsNotExist(err) {
		t.Errorf("the file was written: %v", err)
	}
}
