package main

import (
	"errors"
	"flag"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func noEnv(string) string { return "" }

func TestUpReadsTheFlagsOfControl(t *testing.T) {
	t.Parallel()
	u, err := parseUp([]string{
		"--data-dir", "data", "--listen", "127.0.0.1:1", "--keep-data", "--local-instance-memory", "1GiB",
		"--runtime-image", "provided.al2023=builtin:static", "--log-level", "debug",
	}, noEnv)
	if err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(u.control.DataDir) || filepath.Base(u.control.DataDir) != "data" {
		t.Errorf("got data directory %q", u.control.DataDir)
	}
	if !u.keepData || u.control.Listen != "127.0.0.1:1" || u.control.Local.Memory != 1<<30 {
		t.Errorf("got %+v", u)
	}
	env := map[string]string{"HEARTH_DATA_DIR": "/of/env", "HEARTH_KEEP_DATA": "true", "HEARTH_CONTROL": "of another command"}
	u, err = parseUp(nil, func(key string) string { return env[key] })
	if err != nil || u.control.DataDir != "/of/env" || !u.keepData {
		t.Errorf("got %+v, %v", u, err)
	}
}

func TestUpRefusesWhatControlWouldRefuse(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"--fleet static":                 "--fleet static: hearth up runs everything on this machine",
		"--listen 0.0.0.0:9000":          "--listen: 0.0.0.0:9000 is not a loopback address",
		"--account-id 7":                 "--account-id",
		"--no-such-flag":                 "no-such-flag",
		"data":                           `unexpected argument "data"`,
		"--local-instance-memory banana": "want a size",
	} {
		if _, err := parseUp(strings.Fields(args), noEnv); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an invalid argument with %q", args, err, want)
		}
	}
	if _, err := parseUp([]string{"-h"}, noEnv); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-h: got %v", err)
	}
}

func TestOnlyKeepDataIsNotPassedOn(t *testing.T) {
	t.Parallel()
	args := []string{"--keep-data", "--listen", ":1", "-keep-data=true", "--keep-data=false", "keep-data", "--keep-database"}
	want := []string{"--listen", ":1", "keep-data", "--keep-database"}
	if got := slices.DeleteFunc(slices.Clone(args), isKeepData); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
