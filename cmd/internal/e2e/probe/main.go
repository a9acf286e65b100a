// Command probe is the function the system tests run: it sleeps, echoes,
// answers any size, dials, crashes, and counts how often its process started.
// With the variable PATIENT it outlives the Runtime API, as runtimes may.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

// Event says what to do, in the order of the fields.
type Event struct {
	// Dial connects to this address and sends Say.
	Dial, Say string
	// SleepMS waits.
	SleepMS int
	// Text prints a line that does not say whose it is, Lines so many of JSON, a
	// millisecond apart, that do.
	Text  string
	Lines int
	// Crash ends the process.
	Crash bool
	// Fail answers an error.
	Fail string
	// Read answers what these files are: mode and content.
	Read []string
	// Size answers a string of this many bytes.
	Size int
	// Pad is only there to make the event large.
	Pad string
}

// Answer says what happened.
type Answer struct {
	RequestID   string
	Environment string
	PID         int
	Started     int64
	InFlight    int64
	Peak        int64
	Padded      int
	Body        string
	Revision    string
	Files       []string
}

type state struct {
	started        int64
	inFlight, peak atomic.Int64
}

func (s *state) handle(ctx context.Context, e Event) (*Answer, error) {
	n := s.inFlight.Add(1)
	defer s.inFlight.Add(-1)
	for p := s.peak.Load(); n > p && !s.peak.CompareAndSwap(p, n); p = s.peak.Load() {
	}
	if e.Dial != "" {
		if err := dial(ctx, e.Dial, e.Say); err != nil {
			return nil, err
		}
	}
	time.Sleep(time.Duration(e.SleepMS) * time.Millisecond)
	e.print(ctx)
	if e.Crash {
		os.Exit(3)
	}
	if e.Fail != "" {
		return nil, errors.New(e.Fail)
	}
	a := &Answer{
		Environment: os.Getenv("AWS_LAMBDA_LOG_STREAM_NAME"), PID: os.Getpid(), Started: s.started,
		InFlight: n, Peak: s.peak.Load(), Padded: len(e.Pad), Body: strings.Repeat("x", e.Size), Revision: os.Getenv("REVISION"),
	}
	for _, name := range e.Read {
		a.Files = append(a.Files, read(name))
	}
	if lc, ok := lambdacontext.FromContext(ctx); ok {
		a.RequestID = lc.AwsRequestID
	}
	return a, nil
}

func (e Event) print(ctx context.Context) {
	if e.Text != "" {
		fmt.Println(e.Text)
	}
	lc, _ := lambdacontext.FromContext(ctx)
	for i := range e.Lines {
		fmt.Printf("{\"requestId\":%q,\"n\":%d}\n", lc.AwsRequestID, i)
		time.Sleep(time.Millisecond)
	}
}

// read says what a file is.
func read(name string) string {
	info, err := os.Lstat(name)
	if err != nil {
		return err.Error()
	}
	text, err := os.ReadFile(name) //nolint:gosec // what a test asks for
	if err != nil {
		return err.Error()
	}
	return info.Mode().String() + " " + string(text)
}

// patient takes one event after the other from the Runtime API, and asks again
// when nobody answers.
func (s *state) patient() {
	for ; ; time.Sleep(20 * time.Millisecond) {
		for {
			if err := s.next("http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/invocation/"); err != nil {
				fmt.Println("probe:", err)
				break
			}
		}
	}
}

func (s *state) next(url string) error {
	resp, err := http.Get(url + "next") //nolint:gosec,noctx // the Runtime API, for as long as it takes
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	var e Event
	if err := json.NewDecoder(resp.Body).Decode(&e); err != nil {
		return err
	}
	a, err := s.handle(context.Background(), e)
	if err != nil {
		return err
	}
	body, err := json.Marshal(a)
	if err != nil {
		return err
	}
	said, err := http.Post(url+resp.Header.Get("Lambda-Runtime-Aws-Request-Id")+"/response", "application/json", bytes.NewReader(body)) //nolint:gosec,noctx // the Runtime API
	if err != nil {
		return err
	}
	return said.Body.Close()
}

func dial(ctx context.Context, address, say string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Second, errors.New("nobody answered in 2 s"))
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = fmt.Fprintln(conn, say)
	return err
}

func main() {
	f, err := os.OpenFile("/tmp/starts", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
	if _, err := f.Write([]byte{'.'}); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
	info, err := f.Stat()
	if err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
	s := &state{started: info.Size()}
	if os.Getenv("PATIENT") != "" {
		s.patient()
	}
	lambda.Start(s.handle)
}
