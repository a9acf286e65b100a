package lambdaapi_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/lambdaapi"
)

// streaming is an API whose invokes are run by fn.
func streaming(t *testing.T, fn invoking) *system {
	t.Helper()
	return newSystem(t, func(c *lambdaapi.Config) { c.Invoker = fn })
}

// pieces answers a streamed invoke piece by piece, then ends as told.
func pieces(list []string, result controlplane.InvokeResult, err error) invoking {
	return func(_ context.Context, req controlplane.InvokeRequest) (controlplane.InvokeResult, error) {
		req.Stream.Executing("7")
		if err := req.Stream.Begin("text/plain"); err != nil {
			return controlplane.InvokeResult{}, err
		}
		for _, p := range list {
			if _, err := req.Stream.Write([]byte(p)); err != nil {
				return controlplane.InvokeResult{}, err
			}
		}
		return result, err
	}
}

// events reads a streamed answer to its end.
func events(t *testing.T, out *lambda.InvokeWithResponseStreamOutput) (chunks []string, end *types.InvokeWithResponseStreamCompleteEvent) {
	t.Helper()
	stream := out.GetStream()
	defer func() { _ = stream.Close() }()
	for e := range stream.Events() {
		switch e := e.(type) {
		case *types.InvokeWithResponseStreamResponseEventMemberPayloadChunk:
			chunks = append(chunks, string(e.Value.Payload))
		case *types.InvokeWithResponseStreamResponseEventMemberInvokeComplete:
			end = &e.Value
		}
	}
	if err := stream.Err(); err != nil {
		t.Error(err)
	}
	return chunks, end
}

func TestAnAnswerIsStreamedAsEvents(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		invoker       invoking
		chunks        string
		code, details string
	}{
		"complete":       {pieces([]string{"one", "two"}, controlplane.InvokeResult{Executed: "7"}, nil), "one|two", "", ""},
		"empty":          {pieces(nil, controlplane.InvokeResult{Executed: "7"}, nil), "", "", ""},
		"large":          {pieces([]string{strings.Repeat("x", 64<<10)}, controlplane.InvokeResult{}, nil), strings.Repeat("x", 64<<10), "", ""},
		"an error later": {pieces([]string{"one"}, controlplane.InvokeResult{Executed: "7", FunctionError: "Unhandled", Payload: []byte(`{"errorType":"<E>"}`)}, nil), "one", "Unhandled", `{"errorType":"<E>"}`},
		"with its log":   {pieces(nil, controlplane.InvokeResult{Executed: "7", LogTail: []byte("a line\n")}, nil), "", "", ""},
		"an error at once": {func(context.Context, controlplane.InvokeRequest) (controlplane.InvokeResult, error) {
			return controlplane.InvokeResult{Executed: "7", FunctionError: "Unhandled", Payload: []byte(`{"errorType":"E"}`)}, nil
		}, "", "Unhandled", `{"errorType":"E"}`},
		"lost": {
			pieces([]string{"one"}, controlplane.InvokeResult{}, &controlplane.LostError{Environment: "e-1", Err: errors.New("secret")}),
			"one", "ServiceException", "The connection to the execution environment was lost during the invoke. The function may have run.",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := streaming(t, c.invoker).InvokeWithResponseStream(t.Context(), &lambda.InvokeWithResponseStreamInput{FunctionName: aws.String("f")})
			if err != nil {
				t.Fatal(err)
			}
			if aws.ToString(out.ExecutedVersion) != "7" || aws.ToString(out.ResponseStreamContentType) != "application/vnd.amazon.eventstream" || out.StatusCode != 200 {
				t.Errorf("got version %v, type %v, status %d", aws.ToString(out.ExecutedVersion), aws.ToString(out.ResponseStreamContentType), out.StatusCode)
			}
			chunks, end := events(t, out)
			if got := strings.Join(chunks, "|"); got != c.chunks {
				t.Errorf("got %.100q, want %.100q", got, c.chunks)
			}
			if want := map[bool]string{true: "YSBsaW5lCg=="}[name == "with its log"]; end != nil && aws.ToString(end.LogResult) != want {
				t.Errorf("got the log %q", aws.ToString(end.LogResult))
			}
			if end == nil || aws.ToString(end.ErrorCode) != c.code || aws.ToString(end.ErrorDetails) != c.details {
				t.Errorf("ended %+v", end)
			}
		})
	}
}

func TestAPieceReachesTheCallerBeforeTheNextIsMade(t *testing.T) {
	t.Parallel()
	next := make(chan struct{})
	s := streaming(t, func(_ context.Context, req controlplane.InvokeRequest) (controlplane.InvokeResult, error) {
		if err := req.Stream.Begin(""); err != nil {
			return controlplane.InvokeResult{}, err
		}
		for range 3 {
			<-next
			if _, err := req.Stream.Write([]byte("piece")); err != nil {
				return controlplane.InvokeResult{}, err
			}
		}
		return controlplane.InvokeResult{}, nil
	})
	out := must[*lambda.InvokeWithResponseStreamOutput](t)(s.InvokeWithResponseStream(t.Context(), &lambda.InvokeWithResponseStreamInput{FunctionName: aws.String("f")}))
	stream := out.GetStream()
	defer func() { _ = stream.Close() }()
	for range 3 {
		next <- struct{}{}
		select {
		case e := <-stream.Events():
			if c, ok := e.(*types.InvokeWithResponseStreamResponseEventMemberPayloadChunk); !ok || string(c.Value.Payload) != "piece" {
				t.Fatalf("got %+v", e)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("a piece was not sent")
		}
	}
}

func TestAStreamedInvokeIsRefusedBeforeItBegins(t *testing.T) {
	t.Parallel()
	large := append(append([]byte{'"'}, bytes.Repeat([]byte("x"), 6291456)...), '"')
	for name, c := range map[string]struct {
		in            lambda.InvokeWithResponseStreamInput
		err           error
		code, message string
		status        int
	}{
		"no such function": {
			lambda.InvokeWithResponseStreamInput{},
			&controlplane.FunctionNotFoundError{ARN: functionBase + "f"},
			"ResourceNotFoundException", "Function not found: " + functionBase + "f", 404,
		},
		"throttled": {
			lambda.InvokeWithResponseStreamInput{},
			&controlplane.ThrottledError{Reason: controlplane.ThrottleConcurrency},
			"TooManyRequestsException", "Rate Exceeded: every execution environment is at its concurrency limit.", 429,
		},
		"lost at once": {
			lambda.InvokeWithResponseStreamInput{},
			&controlplane.LostError{Environment: "e-1"},
			"ServiceException", "The connection to the execution environment was lost during the invoke. The function may have run.", 500,
		},
		"no JSON": {
			lambda.InvokeWithResponseStreamInput{Payload: []byte("hello")},
			nil, "InvalidRequestContentException",
			"Could not parse request body into json: the payload is not valid JSON", 400,
		},
		"an event": {
			lambda.InvokeWithResponseStreamInput{InvocationType: "Event"},
			nil, "ValidationException",
			valid("invocationType", "'Event'", "Member must satisfy enum value set: [RequestResponse, DryRun]"), 400,
		},
		"too much": {
			lambda.InvokeWithResponseStreamInput{Payload: large},
			nil, "RequestTooLargeException",
			"Request must be smaller than 6291456 bytes for the InvokeWithResponseStream operation", 413,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t, nil)
			s.invoker.set(controlplane.InvokeResult{}, c.err)
			c.in.FunctionName = aws.String("f")
			_, err := s.InvokeWithResponseStream(t.Context(), &c.in)
			refused(t, err, c.code, c.status, c.message)
		})
	}
}

func TestStreamsTakeABoundedAmountOfMemory(t *testing.T) {
	t.Parallel()
	const most = lambdaapi.LeastBodyMemory / (640 << 10)
	hold, running := make(chan struct{}), make(chan struct{}, most)
	s := streaming(t, func(_ context.Context, req controlplane.InvokeRequest) (controlplane.InvokeResult, error) {
		err := req.Stream.Begin("")
		running <- struct{}{}
		<-hold
		return controlplane.InvokeResult{}, err
	})
	ask := func() (*http.Response, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/2021-11-15/functions/f/response-streaming-invocations", nil)
		if err != nil {
			return nil, err
		}
		return new(http.Client).Do(req)
	}
	var all sync.WaitGroup
	for range most {
		all.Go(func() {
			resp, err := ask()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		})
	}
	for range most {
		<-running
	}
	resp, err := ask()
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 429 || resp.Header.Get("X-Amzn-Errortype") != "TooManyRequestsException" {
		t.Errorf("got %d %v", resp.StatusCode, resp.Header)
	}
	close(hold)
	all.Wait()
}

func TestADryRunOfAStreamRunsNothing(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil)
	s.invoker.set(controlplane.InvokeResult{Executed: "3"}, nil)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/2021-11-15/functions/f/response-streaming-invocations", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Amz-Invocation-Type", "DryRun")
	resp, err := new(http.Client).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if got := s.invoker.seen(); resp.StatusCode != 204 || resp.Header.Get("X-Amz-Executed-Version") != "3" || !got.DryRun || got.Stream != nil {
		t.Errorf("got %d %v, asked %+v", resp.StatusCode, resp.Header, got)
	}
}

func TestACallerThatLeavesEndsItsStream(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	s := streaming(t, func(ctx context.Context, req controlplane.InvokeRequest) (controlplane.InvokeResult, error) {
		err := req.Stream.Begin("")
		for err == nil {
			_, err = req.Stream.Write(make([]byte, 32<<10))
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Second):
			err = errors.New("the context goes on")
		}
		ended <- err
		return controlplane.InvokeResult{}, context.Cause(ctx)
	})
	out := must[*lambda.InvokeWithResponseStreamOutput](t)(s.InvokeWithResponseStream(t.Context(), &lambda.InvokeWithResponseStreamInput{FunctionName: aws.String("f")}))
	<-out.GetStream().Events()
	_ = out.GetStream().Close()
	select {
	case err := <-ended:
		if err == nil || strings.Contains(err.Error(), "goes on") {
			t.Errorf("got %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the invoke did not hear that its caller left")
	}
}
