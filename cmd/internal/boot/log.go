package boot

import (
	"flag"
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"
)

// LogFlags are the flags that shape the log.
type LogFlags struct {
	format logFormat
	level  slog.Level
}

// RegisterLogFlags adds --log-format and --log-level.
func RegisterLogFlags(fs *flag.FlagSet) *LogFlags {
	l := &LogFlags{format: "auto"}
	fs.Var(&l.format, "log-format", "`FORMAT` of the log: text, json, or auto: text on a terminal and json elsewhere")
	fs.TextVar(&l.level, "log-level", slog.LevelInfo, "lowest `LEVEL` that is logged: debug, info, warn, error")
	return l
}

// New makes the logger that writes to w as the flags say.
func (l *LogFlags) New(w *os.File) *slog.Logger {
	opts := &slog.HandlerOptions{Level: l.level}
	if l.format == "text" || l.format == "auto" && isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}

type logFormat string

// String implements flag.Value.
func (f *logFormat) String() string { return string(*f) }

// Set implements flag.Value.
func (f *logFormat) Set(text string) error {
	switch text {
	case "text", "json", "auto":
		*f = logFormat(text)
		return nil
	default:
		return fmt.Errorf("want text, json or auto")
	}
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
