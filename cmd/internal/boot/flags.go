package boot

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/peterbourgon/ff/v3"
)

// EnvPrefix begins the name of every environment variable that stands for a
// flag: --data-dir is HEARTH_DATA_DIR.
const EnvPrefix = "HEARTH_"

// configFlag names the flag with the path of the config file.
const configFlag = "config"

// Repeatable is implemented by flag values that may be given more than once.
// In an environment variable their values are separated by commas, in a config
// file each has a line of its own.
type Repeatable interface {
	flag.Value
	// Repeatable reports whether every Set adds a value.
	Repeatable() bool
}

// NewFlagSet makes the flag set of a daemon, with --config in it. -h prints the
// summary and every flag with its default.
func NewFlagSet(name, summary string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(os.Stdout)
	fs.Usage = func() { PrintUsage(fs.Output(), fs, summary) }
	fs.String(configFlag, "", "`FILE` with one \"flag value\" per line; lines that begin with # are comments")
	return fs
}

// Parse sets the flags of fs from args, from the environment as getenv tells
// it, and from the file that --config names; the earlier of the three wins.
// Unknown flags and unknown keys of the file are errors, and so are arguments
// that are no flags. Unknown environment variables are ignored: the prefix is
// shared by all binaries.
//
// The error is flag.ErrHelp after -h, when the usage has been printed; every
// other is an InvalidArgument.
func Parse(fs *flag.FlagSet, args []string, getenv func(string) string) error {
	if err := parseArgs(fs, args); err != nil {
		return err
	}
	if err := setFromEnv(fs, getenv); err != nil {
		return err
	}
	// What is set by now is left alone by the file.
	err := ff.Parse(fs, nil, ff.WithConfigFileFlag(configFlag), ff.WithConfigFileParser(fileParser(fs)))
	if err != nil {
		return fmt.Errorf("reading the config file: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// EnvName is the environment variable that stands for a flag.
func EnvName(flagName string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(flagName, "-", "_"))
}

func parseArgs(fs *flag.FlagSet, args []string) error {
	// The flag package prints the whole usage after every mistake. One line
	// that says what is wrong is more useful.
	out, usage := fs.Output(), fs.Usage
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	err := fs.Parse(args)
	fs.SetOutput(out)
	fs.Usage = usage
	switch {
	case errors.Is(err, flag.ErrHelp):
		if usage != nil {
			usage()
		}
		return err
	case err != nil:
		return fmt.Errorf("%w (%s -h lists the flags): %w", err, fs.Name(), errdefs.ErrInvalidArgument)
	case fs.NArg() > 0:
		return fmt.Errorf("unexpected argument %q (%s -h lists the flags): %w",
			fs.Arg(0), fs.Name(), errdefs.ErrInvalidArgument)
	}
	return nil
}

func setFromEnv(fs *flag.FlagSet, getenv func(string) string) error {
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	var errs []error
	fs.VisitAll(func(f *flag.Flag) {
		value := getenv(EnvName(f.Name))
		if given[f.Name] || value == "" {
			return
		}
		values := []string{value}
		if r, ok := f.Value.(Repeatable); ok && r.Repeatable() {
			values = strings.Split(value, ",")
		}
		for _, v := range values {
			if err := fs.Set(f.Name, strings.TrimSpace(v)); err != nil {
				errs = append(errs, fmt.Errorf("%s: invalid value %q: %w: %w",
					EnvName(f.Name), v, err, errdefs.ErrInvalidArgument))
				return
			}
		}
	})
	return errors.Join(errs...)
}

// fileParser reads lines of "flag value", "flag=value" or "flag = value". A
// switch may stand alone. Lines that begin with # are comments.
func fileParser(fs *flag.FlagSet) ff.ConfigFileParser {
	return func(r io.Reader, set func(name, value string) error) error {
		lines := bufio.NewScanner(r)
		for n := 1; lines.Scan(); n++ {
			line := strings.TrimSpace(lines.Text())
			if line == "" || line[0] == '#' {
				continue
			}
			name, value := line, ""
			if i := strings.IndexAny(line, " \t="); i >= 0 {
				name, value = line[:i], strings.TrimSpace(line[i:])
				value = strings.TrimSpace(strings.TrimPrefix(value, "="))
			}
			name = strings.TrimLeft(name, "-")
			f := fs.Lookup(name)
			switch {
			case f == nil:
				return fmt.Errorf("line %d: no such flag: %q", n, name)
			case name == configFlag:
				return fmt.Errorf("line %d: a config file cannot name another", n)
			case value == "" && isSwitch(f):
				value = "true"
			}
			if err := set(name, value); err != nil {
				return fmt.Errorf("line %d: %w", n, err)
			}
		}
		return lines.Err()
	}
}

func isSwitch(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}
