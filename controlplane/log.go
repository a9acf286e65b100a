package controlplane

import "time"

// LogQuery says which lines of a function's log are wanted. Empty fields ask for
// any.
type LogQuery struct {
	// Function is required.
	Function    FunctionName
	Version     Qualifier
	Environment EnvironmentID
	RequestID   string
	// Since leaves earlier lines out.
	Since time.Time
	// Tail asks for so many of the last lines that are kept; below zero means all.
	Tail int
	// Follow goes on with the lines that come.
	Follow bool
}

// LogSource is who wrote a line.
type LogSource string

// The sources.
const (
	LogStdout    LogSource = "stdout"
	LogStderr    LogSource = "stderr"
	LogExtension LogSource = "extension"
	LogPlatform  LogSource = "platform"
)

// LogLine is one line of a function's log.
type LogLine struct {
	// Time is when its agent read it.
	Time        time.Time
	Function    FunctionName
	Version     Qualifier
	Environment EnvironmentID
	Instance    InstanceID
	// RequestID is empty when it is not known.
	RequestID string
	Source    LogSource
	// Text is without its line ending and may be anything.
	Text []byte
}

// LogBatch is some lines of one instance, ordered by time.
type LogBatch struct {
	Lines []LogLine
	// Lost counts lines that are missing between these and those before.
	Lost int64
	// CaughtUp says that all that was kept when reading began has been read.
	CaughtUp bool
}
