// Command testreport reads the output of one or more runs of "go test -json"
// and prints it for people: what failed with its output, go's own closing line
// for each package, every skipped test with its reason, and a total.
//
// A skip is an exception somebody has to agree to: with -allowed-skips, a test
// that was skipped in every run it took part in, and is not in that file, fails
// the report. A test skipped in one run and run in another (the unit tests are
// run without root first, then those of some packages again with it) counts as
// run.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	allowed := flag.String("allowed-skips", "", "file that lists the tests that may be skipped; empty allows none")
	flag.Parse()
	if err := run(os.Stdin, os.Stdout, *allowed); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
}

// run reports on the events in r. The error says in one line why the run is not
// good.
func run(r io.Reader, w io.Writer, allowedFile string) error {
	var allowed allowList
	if allowedFile != "" {
		text, err := os.ReadFile(allowedFile) //nolint:gosec // G304: whoever runs the report names the file
		if err != nil {
			return err
		}
		if allowed, err = parseAllowed(string(text)); err != nil {
			return fmt.Errorf("%s: %w", allowedFile, err)
		}
	}
	rep := newReport(w)
	if err := rep.read(r); err != nil {
		return err
	}
	return rep.finish(allowed)
}
