package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"
)

func TestGreetsByNameAndSaysWhereItRan(t *testing.T) {
	g, err := newGreeter("2026/11/23/[1]e-1", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ctx := lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{AwsRequestID: "r-1"})
	got, err := g.greet(ctx, Event{Name: "Ada"})
	if err != nil {
		t.Fatal(err)
	}
	if got.Message != "hello, Ada" || got.RequestID != "r-1" || got.Environment != "2026/11/23/[1]e-1" {
		t.Errorf("answer %+v", got)
	}
	if got.InFlight != 1 || got.PeakInFlight != 1 || got.ProcessStarts != 1 || got.PID != os.Getpid() {
		t.Errorf("answer %+v, want the first invoke of the first process", got)
	}
}

func TestGreetsTheWorldWhenTheEventIsEmpty(t *testing.T) {
	g, err := newGreeter("", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var e Event
	if err := json.Unmarshal([]byte(`{}`), &e); err != nil {
		t.Fatal(err)
	}
	got, err := g.greet(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	if got.Message != "hello, world" || got.Environment == "" {
		t.Errorf("answer %+v", got)
	}
}

func TestCountsInvokesThatRunAtOnce(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		g, err := newGreeter("e", dir)
		if err != nil {
			t.Fatal(err)
		}
		answers := make(chan Answer, 3) // one for each invoke
		for range cap(answers) {
			go func() {
				a, err := g.greet(t.Context(), Event{SleepMS: 50})
				if err != nil {
					t.Error(err)
				}
				answers <- a
			}()
		}
		seen := map[int64]bool{}
		for range cap(answers) {
			a := <-answers
			seen[a.InFlight] = true
			if a.PeakInFlight != 3 {
				t.Errorf("peak %d, want 3", a.PeakInFlight)
			}
		}
		if len(seen) != 3 {
			t.Errorf("in-flight counts %v, want 1, 2 and 3", seen)
		}
		a, err := g.greet(t.Context(), Event{})
		if err != nil || a.InFlight != 1 || a.PeakInFlight != 3 {
			t.Errorf("afterwards %+v, %v; want 1 in flight and the peak kept", a, err)
		}
	})
}

func TestStopsSleepingWhenItsTimeIsUp(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		g, err := newGreeter("e", dir)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("out of time"))
		defer cancel()
		if _, err := g.greet(ctx, Event{SleepMS: 60_000}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err = %v, want a deadline exceeded", err)
		}
	})
}

func TestCountsStartsInOneEnvironment(t *testing.T) {
	dir := t.TempDir()
	for want := int64(1); want <= 3; want++ {
		g, err := newGreeter("e", dir)
		if err != nil {
			t.Fatal(err)
		}
		if g.starts != want {
			t.Errorf("starts = %d, want %d", g.starts, want)
		}
	}
}
