package boot

import (
	"flag"
	"fmt"
	"io"
	"strings"
)

// PrintUsage writes what -h shows: the summary and every flag, each with its
// default and the environment variable that sets it.
func PrintUsage(w io.Writer, fs *flag.FlagSet, summary string) {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: %s [flags]\n\n%s\n\nFlags:\n", fs.Name(), summary)
	fs.VisitAll(func(f *flag.Flag) {
		value, usage := flag.UnquoteUsage(f)
		fmt.Fprintf(&b, "  --%s", f.Name)
		if value != "" {
			fmt.Fprintf(&b, " %s", value)
		}
		b.WriteString("\n")
		if f.DefValue != "" && f.DefValue != "false" {
			usage += fmt.Sprintf(" (default %s)", f.DefValue)
		}
		if r, ok := f.Value.(Repeatable); ok && r.Repeatable() {
			usage += " (repeatable)"
		}
		for line := range strings.SplitSeq(usage, "\n") {
			fmt.Fprintf(&b, "        %s\n", line)
		}
	})
	fmt.Fprintf(&b, "\nEvery flag can be set by an environment variable too: --data-dir is %s.\n", EnvName("data-dir"))
	b.WriteString("Flags win over the environment, the environment wins over the config file.\n")
	_, _ = io.WriteString(w, b.String())
}
