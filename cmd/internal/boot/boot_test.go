package boot

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

type settings struct {
	Listen string
	Strict bool
	Memory Size
	Images []string
}

// parse runs Parse over a small daemon's flags. file is the content of a config
// file, none when empty.
func parse(t *testing.T, args []string, env map[string]string, file string) (settings, string, error) {
	t.Helper()
	var s settings
	var out bytes.Buffer
	fs := NewFlagSet("hearth-test", "Tests things.")
	fs.SetOutput(&out)
	fs.StringVar(&s.Listen, "listen", "127.0.0.1:9000", "`ADDRESS` to listen on")
	fs.BoolVar(&s.Strict, "strict", false, "be strict")
	s.Memory = 8 * GiB
	fs.Var(&s.Memory, "instance-memory", "memory of an instance")
	images := NewList("a=default")
	fs.Var(images, "runtime-image", "`NAME=REF` of a runtime's image")
	if file != "" {
		path := filepath.Join(t.TempDir(), "hearth.conf")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	err := Parse(fs, args, func(key string) string { return env[key] })
	s.Images = images.Values()
	return s, out.String(), err
}

func TestFlagsWinOverEnvironmentWinsOverFile(t *testing.T) {
	t.Parallel()
	defaults := settings{Listen: "127.0.0.1:9000", Memory: 8 * GiB, Images: []string{"a=default"}}
	for _, c := range []struct {
		name string
		args []string
		env  map[string]string
		file string
		want settings
	}{
		{name: "defaults", want: defaults},
		{
			name: "file",
			file: "# a comment\nlisten :1\n\nstrict\nruntime-image x=1\nruntime-image\ty=2,3\ninstance-memory = 1GiB\n",
			want: settings{Listen: ":1", Strict: true, Memory: GiB, Images: []string{"x=1", "y=2,3"}},
		},
		{
			name: "environment over file",
			env: map[string]string{
				"HEARTH_LISTEN": "a,b", "HEARTH_STRICT": "true",
				"HEARTH_RUNTIME_IMAGE": "x=1, y=2", "HEARTH_CONTROL": "is of another program",
			},
			file: "listen :1\nruntime-image=z=3\ninstance-memory=512MiB\n",
			want: settings{Listen: "a,b", Strict: true, Memory: 512 * MiB, Images: []string{"x=1", "y=2"}},
		},
		{
			name: "flags over all",
			args: []string{"--listen", ":3", "--runtime-image", "p=1", "--runtime-image", "q=2", "-strict=false"},
			env:  map[string]string{"HEARTH_LISTEN": ":2", "HEARTH_RUNTIME_IMAGE": "x=1", "HEARTH_STRICT": "true"},
			file: "listen :1\n",
			want: settings{Listen: ":3", Memory: 8 * GiB, Images: []string{"p=1", "q=2"}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, _, err := parse(t, c.args, c.env, c.file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestMistakesAreInvalidArgumentsThatNameTheKey(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		args []string
		env  map[string]string
		file string
		want string
	}{
		{name: "flag", args: []string{"--lisen", "x"}, want: "-lisen"},
		{name: "argument", args: []string{"listen"}, want: `unexpected argument "listen"`},
		{name: "value", args: []string{"--instance-memory", "lots"}, want: "want a size"},
		{name: "environment", env: map[string]string{"HEARTH_INSTANCE_MEMORY": "-1"}, want: "HEARTH_INSTANCE_MEMORY"},
		{name: "file key", file: "listen :1\nlisen :2\n", want: `line 2: no such flag: "lisen"`},
		{name: "file value", file: "strict perhaps\n", want: `line 1: `},
		{name: "file names file", file: "config other\n", want: "cannot name another"},
		{name: "missing file", args: []string{"--config", "/does/not/exist"}, want: "/does/not/exist"},
		{name: "empty list value", file: "runtime-image\n", want: "want a value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, out, err := parse(t, c.args, c.env, c.file)
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an invalid argument with %q", err, c.want)
			}
			if out != "" {
				t.Errorf("printed %q", out)
			}
		})
	}
}

func TestHelpShowsDefaults(t *testing.T) {
	t.Parallel()
	_, out, err := parse(t, []string{"-h"}, nil, "")
	if !errors.Is(err, flag.ErrHelp) {
		t.Fatalf("got %v, want flag.ErrHelp", err)
	}
	want := `Usage: hearth-test [flags]

Tests things.

Flags:
  --config FILE
        FILE with one "flag value" per line; lines that begin with # are comments
  --instance-memory value
        memory of an instance (default 8GiB)
  --listen ADDRESS
        ADDRESS to listen on (default 127.0.0.1:9000)
  --runtime-image NAME=REF
        NAME=REF of a runtime's image (default a=default) (repeatable)
  --strict
        be strict

Every flag can be set by an environment variable too: --data-dir is HEARTH_DATA_DIR.
Flags win over the environment, the environment wins over the config file.
`
	if d := cmp.Diff(want, out); d != "" {
		t.Error(d)
	}
}

func TestSizesReadBackAsWritten(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Size{
		"0": 0, "1": 1, "100B": 100, "64KiB": 64 * KiB, "512MiB": 512 * MiB, "8GiB": 8 * GiB, "8 GiB": 8 * GiB, "1TiB": TiB,
	} {
		var s, again Size
		if err := s.Set(text); err != nil || s != want {
			t.Errorf("%q: got %d, %v, want %d", text, s, err, want)
		}
		if err := again.Set(s.String()); err != nil || again != s {
			t.Errorf("%q printed as %q: got %d, %v", text, s, again, err)
		}
	}
	for _, text := range []string{"", "GiB", "1GB", "1.5GiB", "-1", "9999999999GiB", "8GiBB", "0x10"} {
		var s Size
		if err := s.Set(text); err == nil {
			t.Errorf("%q was accepted as %d", text, s)
		}
	}
}

func TestExitCodesSayWhoseMistakeItWas(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		code int
		says string
	}{
		{nil, 0, ""},
		{flag.ErrHelp, 0, ""},
		{fmt.Errorf("--listen: %w", errdefs.ErrInvalidArgument), 2, "p: --listen: invalid argument\n"},
		{errors.New("the disk is full"), 1, "p: the disk is full\n"},
	} {
		var out bytes.Buffer
		if got := exitCode(c.err, "p", &out); got != c.code || out.String() != c.says {
			t.Errorf("%v: got %d and %q, want %d and %q", c.err, got, out.String(), c.code, c.says)
		}
	}
}

func TestLogIsJSONUnlessOnATerminal(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"":                  `"msg":"seen"`,
		"--log-format=json": `"msg":"seen"`,
		"--log-format=text": `msg=seen`,
	} {
		fs := NewFlagSet("p", "")
		logs := RegisterLogFlags(fs)
		given := strings.Fields("--log-level=warn " + args)
		if err := Parse(fs, given, func(string) string { return "" }); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "log")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		log := logs.New(f)
		log.Log(t.Context(), slog.LevelInfo, "not seen")
		log.Log(t.Context(), slog.LevelWarn, "seen")
		_ = f.Close()
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(got, []byte(want)) || bytes.Contains(got, []byte("not seen")) {
			t.Errorf("%q: got %q, want %q only", args, got, want)
		}
	}
}

func TestVersionFallsBackToTheCommit(t *testing.T) {
	t.Parallel()
	info := &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}
	if got := fromBuildInfo(info); got != "devel" {
		t.Errorf("got %q, want devel", got)
	}
	info.Settings = []debug.BuildSetting{{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.modified", Value: "true"}}
	if got := fromBuildInfo(info); got != "devel-0123456789ab-dirty" {
		t.Errorf("got %q", got)
	}
	info.Main.Version = "v1.2.3"
	if got := fromBuildInfo(info); got != "v1.2.3" {
		t.Errorf("got %q, want v1.2.3", got)
	}
}
