// Command hello-go is a Lambda function that greets and says where it runs: in
// which environment, in which process, and beside how many other invokes. It
// is what "make demo" deploys.
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

// Event is what the function is invoked with; every member is optional.
type Event struct {
	// Name is who to greet; "world" when empty.
	Name string `json:"name"`
	// SleepMS is how long to take, in milliseconds.
	SleepMS int `json:"sleepMs"`
}

// Answer is what it returns.
type Answer struct {
	Message   string `json:"message"`
	RequestID string `json:"requestId"`
	// Environment is the log stream, which Lambda gives each execution
	// environment one of, or a random name made at start if there is none.
	Environment string    `json:"environment"`
	PID         int       `json:"pid"`
	StartedAt   time.Time `json:"startedAt"`
	// ProcessStarts counts the starts of this program in this environment, this
	// one included.
	ProcessStarts int64 `json:"processStarts"`
	// InFlight is how many invokes run in this process, this one included, and
	// PeakInFlight the most there ever were.
	InFlight     int64 `json:"inFlight"`
	PeakInFlight int64 `json:"peakInFlight"`
	// ConcurrencyLimit is how many the environment runs at once.
	ConcurrencyLimit int `json:"concurrencyLimit"`
}

// greeter is the state of one process; many invokes use it at once.
type greeter struct {
	environment string
	startedAt   time.Time
	starts      int64
	inFlight    atomic.Int64
	peak        atomic.Int64
}

// newGreeter counts this start in dir, which lives as long as the environment.
func newGreeter(environment, dir string) (*greeter, error) {
	if environment == "" {
		environment = rand.Text()
	}
	starts, err := countStart(filepath.Join(dir, "hello-go.starts"))
	if err != nil {
		return nil, err
	}
	return &greeter{environment: environment, startedAt: time.Now().UTC(), starts: starts}, nil
}

// countStart adds a byte to the file and returns how many there are.
func countStart(name string) (starts int64, err error) {
	f, err := os.OpenFile(filepath.Clean(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, fmt.Errorf("counting a start: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	if _, err := f.Write([]byte{'.'}); err != nil {
		return 0, fmt.Errorf("counting a start: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("counting a start: %w", err)
	}
	return info.Size(), nil
}

// greet handles one invoke.
func (g *greeter) greet(ctx context.Context, e Event) (Answer, error) {
	now := g.inFlight.Add(1)
	defer g.inFlight.Add(-1)
	for peak := g.peak.Load(); now > peak && !g.peak.CompareAndSwap(peak, now); peak = g.peak.Load() {
	}
	if e.SleepMS > 0 {
		timer := time.NewTimer(time.Duration(e.SleepMS) * time.Millisecond)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return Answer{}, fmt.Errorf("sleeping %d ms: %w", e.SleepMS, ctx.Err())
		}
	}
	if e.Name == "" {
		e.Name = "world"
	}
	a := Answer{
		Message:          "hello, " + e.Name,
		Environment:      g.environment,
		PID:              os.Getpid(),
		StartedAt:        g.startedAt,
		ProcessStarts:    g.starts,
		InFlight:         now,
		PeakInFlight:     g.peak.Load(),
		ConcurrencyLimit: lambdacontext.MaxConcurrency(),
	}
	if lc, ok := lambdacontext.FromContext(ctx); ok {
		a.RequestID = lc.AwsRequestID
	}
	return a, nil
}

func main() {
	g, err := newGreeter(lambdacontext.LogStreamName, os.TempDir())
	if err != nil {
		fmt.Fprintln(os.Stderr, "hello-go:", err)
		os.Exit(1) //nolint:forbidigo // this is package main, which may
	}
	lambda.Start(g.greet)
}
