// Command configdoc writes the configuration reference from what the binaries
// say about themselves: it runs each with --help, and a command with
// subcommands once for each of those.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	out := flag.String("o", "docs/configuration.md", "the file to write")
	check := flag.Bool("check", false, "write nothing; fail if the file is not current")
	flag.Parse()
	if err := run(context.Background(), *out, *check, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "configdoc:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out string, check bool, binaries []string) error {
	if len(binaries) == 0 {
		return errors.New("name the binaries to document")
	}
	text, err := reference(ctx, binaries)
	if err != nil {
		return err
	}
	if !check {
		return os.WriteFile(out, text, 0o644) //nolint:gosec // G306: documentation is for everybody to read
	}
	have, err := os.ReadFile(out) //nolint:gosec // G304: whoever runs this names the file
	if err != nil {
		return err
	}
	if !bytes.Equal(have, text) {
		return fmt.Errorf(`%s is not what the binaries say; run "make generate"`, out)
	}
	return nil
}

const preamble = `# Configuration reference

Written by ` + "`make generate`" + ` from what the binaries print with ` + "`--help`" + `.

Every flag of a daemon is also an environment variable: ` + "`--data-dir` is `HEARTH_DATA_DIR`" + `. ` + "`--config FILE`" + ` reads
the same names from a file, one to a line: ` + "`data-dir /var/lib/hearth/control`" + `. Flags win over the environment, the
environment wins over the file. Unknown flags and unknown names in the file are errors.
`

// reference returns the whole document.
func reference(ctx context.Context, binaries []string) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(preamble)
	for _, binary := range binaries {
		if err := section(ctx, &b, binary, nil, "## "); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// section documents one command and then its subcommands.
func section(ctx context.Context, b *bytes.Buffer, binary string, path []string, heading string) error {
	name := strings.Join(append([]string{filepath.Base(binary)}, path...), " ")
	help, err := exec.CommandContext(ctx, binary, append(path, "--help")...).CombinedOutput() //nolint:gosec // G204: whoever runs this names the binary
	if err != nil {
		return fmt.Errorf("running %s --help: %w\n%s", name, err, help)
	}
	fmt.Fprintf(b, "\n%s%s\n\n```text\n%s\n```\n", heading, name, bytes.TrimSpace(help))
	for _, sub := range subcommands(string(help)) {
		if err := section(ctx, b, binary, append(slices.Clip(path), sub), "### "); err != nil {
			return err
		}
	}
	return nil
}

// subcommands finds the names under "Available Commands:" in the help of a
// cobra command, without those that cobra adds itself.
func subcommands(help string) []string {
	_, rest, found := strings.Cut(help, "Available Commands:\n")
	if !found {
		return nil
	}
	list, _, _ := strings.Cut(rest, "\n\n")
	var names []string
	for line := range strings.Lines(list) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] == "help" || fields[0] == "completion" {
			continue
		}
		names = append(names, fields[0])
	}
	return names
}
