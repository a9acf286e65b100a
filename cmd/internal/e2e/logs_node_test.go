//go:build node

package e2e

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// prints is an event with which the probe prints.
type prints struct {
	Text    string `json:",omitempty"`
	Lines   int
	SleepMS int
}

// tailed invokes a function and returns its request and the end of its log.
func (s *stack) tailed(ctx context.Context, function string, e prints) (request, tail string, err error) {
	payload, err := json.Marshal(e)
	if err != nil {
		return "", "", err
	}
	out, err := s.lambda.Invoke(ctx, &lambda.InvokeInput{FunctionName: aws.String(function), LogType: types.LogTypeTail, Payload: payload})
	if err != nil {
		return "", "", err
	}
	text, err := base64.StdEncoding.DecodeString(aws.ToString(out.LogResult))
	if err != nil {
		return "", "", err
	}
	var a answer
	if err := json.Unmarshal(out.Payload, &a); err != nil || out.FunctionError != nil {
		return "", "", fmt.Errorf("%w: %s", err, out.Payload)
	}
	return a.RequestID, string(text), nil
}

// wantTail fails unless a tail has n lines of a request in order, then its
// report, and nothing else.
func wantTail(tail, request string, n int) error {
	lines := strings.Split(strings.TrimSuffix(tail, "\n"), "\n")
	for i := range n {
		if want := fmt.Sprintf(`{"requestId":"%s","n":%d}`, request, i); i >= len(lines) || lines[i] != want {
			return fmt.Errorf("line %d is not %s in:\n%s", i, want, tail)
		}
	}
	if len(lines) != n+1 || !strings.Contains(lines[n], `"platform.report"`) || !strings.Contains(lines[n], request) {
		return fmt.Errorf("no report after %d lines, or more:\n%s", n, tail)
	}
	return nil
}

// TestATailHasTheLinesOfItsInvoke asks for tails with the SDK, of functions that
// run 32 invokes at once and one.
func TestATailHasTheLinesOfItsInvoke(t *testing.T) {
	s := up(t)
	s.provider("subnet-a")
	s.function(concurrency(32))
	s.step("at concurrency 32", s.tailsDoNotMix)
	s.step("of a streamed answer", s.tailOfAStream)
	s.function(func(in *lambda.CreateFunctionInput) {
		concurrency(1)(in)
		in.FunctionName = aws.String("one")
	})
	s.eventually(time.Minute, "one to be Active", func() error {
		_, _, err := s.tailed(s.t.Context(), "one", prints{})
		return err
	})
	s.step("at concurrency 1", func() {
		for i := range 10 {
			// On a busy machine a line may come too late for its tail.
			attempts := 0
			s.eventually(10*time.Second, "the tail of an invoke", func() error {
				attempts++
				text := fmt.Sprintf("hello %d.%d", i, attempts)
				request, tail, err := s.tailed(s.t.Context(), "one", prints{Text: text})
				lines := strings.Split(strings.TrimSuffix(tail, "\n"), "\n")
				if err != nil || len(lines) != 2 || lines[0] != text || !strings.Contains(lines[1], request) {
					return fmt.Errorf("invoke %d: got %w %q", i, err, tail)
				}
				return nil
			})
		}
	})
	s.step("of more than fits", func() {
		_, tail, err := s.tailed(s.t.Context(), "one", prints{Lines: 200})
		if err != nil || len(tail) != 4096 || !strings.Contains(tail, `"n":199}`) || strings.Contains(tail, `"n":100}`) {
			s.t.Errorf("got %v, %d bytes: %s", err, len(tail), tail)
		}
	})
}

// tailsDoNotMix runs 32 invokes at once, five times.
func (s *stack) tailsDoNotMix() {
	var callers sync.WaitGroup
	for i := range 32 {
		callers.Go(func() {
			for range 5 {
				err := s.tailIsWhole(5 + i%20)
				if err != nil && code(err) != "TooManyRequestsException" { // some environment had more than its share
					s.t.Error(err)
				}
			}
		})
	}
	callers.Wait()
}

// tailIsWhole invokes once, and again where the last lines came too late for the
// tail, as they may on a busy machine. There must never be others.
func (s *stack) tailIsWhole(n int) error {
	for attempt := 1; ; attempt++ {
		request, tail, err := s.tailed(s.t.Context(), functionName, prints{Text: "whose?", Lines: n, SleepMS: 10})
		if err != nil {
			return err
		}
		there := strings.Count(strings.TrimSuffix(tail, "\n"), "\n") // and the report
		if there < n && attempt < 5 && wantTail(tail, request, there) == nil {
			continue
		}
		return wantTail(tail, request, n)
	}
}

func (s *stack) tailOfAStream() {
	out, err := s.lambda.InvokeWithResponseStream(s.t.Context(), &lambda.InvokeWithResponseStreamInput{
		FunctionName: aws.String(functionName), LogType: types.LogTypeTail, Payload: []byte(`{"Lines":3}`),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	stream := out.GetStream()
	defer func() { _ = stream.Close() }()
	var body, log string
	for e := range stream.Events() {
		switch e := e.(type) {
		case *types.InvokeWithResponseStreamResponseEventMemberPayloadChunk:
			body += string(e.Value.Payload)
		case *types.InvokeWithResponseStreamResponseEventMemberInvokeComplete:
			log = aws.ToString(e.Value.LogResult)
		}
	}
	tail, err := base64.StdEncoding.DecodeString(log)
	if err != nil {
		s.t.Fatal(err)
	}
	var a answer
	if err := errors.Join(stream.Err(), json.Unmarshal([]byte(body), &a)); err != nil {
		s.t.Fatalf("%v: %s", err, body)
	}
	if err := wantTail(string(tail), a.RequestID, 3); err != nil {
		s.t.Error(err)
	}
}

// printedLine is what "hearth logs -o json" prints.
type printedLine struct {
	Function, Version, Environment, Instance, Source, Text string
	Time                                                   time.Time
	RequestID                                              string `json:"request_id"`
}

// logs runs "hearth logs" and returns its lines.
func (s *stack) logs(args ...string) (lines []printedLine) {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), filepath.Join(bins, "hearth"), append([]string{"logs", "--control", s.operator, "-o", "json"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("hearth logs %q: %v", args, err)
	}
	for text := range strings.Lines(string(out)) {
		lines = append(lines, decodeLine(s.t, text))
	}
	return lines
}

func decodeLine(t *testing.T, text string) (l printedLine) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return l
}

// TestLogsAreFollowedAcrossInstances runs "hearth logs -f" while a function
// prints on several instances, and reads what environments printed that ended.
func TestLogsAreFollowedAcrossInstances(t *testing.T) {
	t.Parallel()
	s := up(t)
	s.provider("subnet-a", "subnet-b")
	s.function(concurrency(4))
	seen := s.followed()
	if len(seen) < 2 {
		t.Fatalf("lines came of %d instances", len(seen))
	}
	s.step("filtered", func() { s.filters(seen) })
	s.step("after the environments ended", func() {
		s.set("next")
		if _, err := s.lambda.PublishVersion(s.t.Context(), &lambda.PublishVersionInput{
			FunctionName: aws.String(functionName), PublishTo: types.FunctionVersionLatestPublishedLatestPublished,
		}); err != nil {
			s.t.Fatal(err)
		}
		s.eventually(time.Minute, "the old environments to end", func() error {
			for _, e := range s.environments() {
				for _, old := range seen {
					if e == old.Environment {
						return fmt.Errorf("%s is still there", e)
					}
				}
			}
			return nil
		})
		for instance, old := range seen {
			lines := s.logs(functionName, "--environment", old.Environment, "--request-id", old.RequestID)
			if len(lines) < 3 || lines[0].Instance != instance {
				s.t.Errorf("of %s on %s: %d lines are left", old.Environment, instance, len(lines))
			}
		}
	})
}

// environments lists those there are, by "hearth ps".
func (s *stack) environments() (ids []string) {
	s.t.Helper()
	out, err := exec.CommandContext(s.t.Context(), filepath.Join(bins, "hearth"), "ps", "--control", s.operator).Output()
	if err != nil {
		s.t.Fatal(err)
	}
	return regexp.MustCompile(`\be-[0-9a-z-]+`).FindAllString(string(out), -1)
}

// followed invokes until two instances have printed, or for a minute, and returns
// a line of each.
func (s *stack) followed() map[string]printedLine {
	s.t.Helper()
	cmd := exec.Command(filepath.Join(bins, "hearth"), "logs", "-f", functionName, "--control", s.operator, "-o", "json", "--tail", "0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	lines := make(chan string, 1000) // more than are printed between two looks
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(lines)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			lines <- scanner.Text()
		}
	})
	seen := map[string]printedLine{}
	for deadline := time.Now().Add(time.Minute); len(seen) < 2 && time.Now().Before(deadline); {
		if _, _, err := s.tailed(s.t.Context(), functionName, prints{Lines: 2}); err != nil {
			s.t.Fatal(err)
		}
		s.collect(lines, seen)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		s.t.Fatal(err)
	}
	for range lines { // the rest
	}
	reading.Wait()
	if err := cmd.Wait(); err != nil {
		s.t.Errorf("hearth logs -f ended with %v", err)
	}
	return seen
}

// collect takes the lines that come within a moment.
func (s *stack) collect(lines <-chan string, seen map[string]printedLine) {
	s.t.Helper()
	moment := time.After(500 * time.Millisecond)
	for {
		select {
		case text := <-lines:
			l := decodeLine(s.t, text)
			if l.Function != functionName || l.Version != "$LATEST.PUBLISHED" || l.Instance == "" || time.Since(l.Time) > 10*time.Second {
				s.t.Errorf("got %s", text)
			}
			if l.RequestID != "" {
				seen[l.Instance] = l
			}
		case <-moment:
			return
		}
	}
}

// filters asks for parts of what was printed.
func (s *stack) filters(seen map[string]printedLine) {
	all := s.logs(functionName)
	for i := 1; i < len(all); i++ {
		if all[i].Time.Before(all[i-1].Time) {
			s.t.Errorf("line %d is older than the one before", i)
		}
	}
	last := s.logs(functionName, "--tail", "3")
	if len(last) != 3 || last[2] != all[len(all)-1] {
		s.t.Errorf("the last three are %+v", last)
	}
	for _, want := range seen {
		for _, l := range s.logs(functionName, "--request-id", want.RequestID) {
			if l.RequestID != want.RequestID || l.Environment != want.Environment {
				s.t.Errorf("of request %s: got %+v", want.RequestID, l)
			}
		}
	}
	if got := s.logs("nobody"); len(got) != 0 {
		s.t.Errorf("a function that does not exist printed %+v", got)
	}
	if got := s.logs(functionName, "--version", "9"); len(got) != 0 {
		s.t.Errorf("a version that does not exist printed %+v", got)
	}
}
