// Command streamer is the function the tests of streamed answers run: it
// answers piece by piece, with aws-lambda-go, or with the variable RAW with a
// runtime client of its own, which may do what that never does.
package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
)

// Event says how to answer.
type Event struct {
	// SleepMS waits before the first piece.
	SleepMS int
	// Pieces is how many there are, GapMS apart.
	Pieces, GapMS int
	// Size is the size of each; 0 makes each the time it was written, in Unix
	// nanoseconds, and a line break.
	Size int
	// Fail ends the answer in this error after the last piece.
	Fail string
	// Interrupt posts that error to /error instead, while the answer streams. Raw
	// only.
	Interrupt bool
	// Crash ends the process after the last piece.
	Crash bool
	// Type is the content type. Raw only.
	Type string
}

// answer is an answer as it is made.
type answer struct {
	event Event
	made  int
	rest  []byte
}

// Read implements io.Reader.
func (a *answer) Read(p []byte) (int, error) {
	if len(a.rest) == 0 {
		if a.made == a.event.Pieces {
			return 0, a.end()
		}
		if a.made++; a.made > 1 {
			time.Sleep(time.Duration(a.event.GapMS) * time.Millisecond)
		}
		a.rest = make([]byte, a.event.Size)
		if a.event.Size == 0 {
			a.rest = append(strconv.AppendInt(nil, time.Now().UnixNano(), 10), '\n')
		}
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

func (a *answer) end() error {
	if a.event.Crash {
		time.Sleep(100 * time.Millisecond) // what was written is on its way
		os.Exit(3)
	}
	if a.event.Fail != "" && !a.event.Interrupt {
		return errors.New(a.event.Fail)
	}
	return io.EOF
}

func handle(_ context.Context, e Event) (any, error) {
	time.Sleep(time.Duration(e.SleepMS) * time.Millisecond)
	if e.Pieces == 0 && e.Fail != "" {
		return nil, errors.New(e.Fail)
	}
	return &answer{event: e}, nil
}

const (
	errorType = "Lambda-Runtime-Function-Error-Type"
	errorBody = "Lambda-Runtime-Function-Error-Body"
)

// failing puts the error an answer ends in into its trailers.
type failing struct {
	io.Reader

	trailer http.Header
}

// Read implements io.Reader.
func (f *failing) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.trailer.Set(errorType, "Function.Midway")
		f.trailer.Set(errorBody, base64.StdEncoding.EncodeToString(document(err.Error())))
		return n, io.EOF
	}
	return n, err
}

func document(message string) []byte {
	return fmt.Appendf(nil, `{"errorType":"Midway","errorMessage":%q}`, message)
}

// raw runs one event after the other, until one fails.
func raw(base string) error {
	for {
		resp, err := http.Get(base + "next") //nolint:gosec,noctx // the Runtime API, for as long as it takes
		if err != nil {
			return err
		}
		var e Event
		err = json.NewDecoder(resp.Body).Decode(&e)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			return err
		}
		if err := respond(base+resp.Header.Get("Lambda-Runtime-Aws-Request-Id"), e); err != nil {
			return err
		}
	}
}

func respond(url string, e Event) error {
	time.Sleep(time.Duration(e.SleepMS) * time.Millisecond)
	body, write := io.Pipe()
	interrupted := make(chan error, 1)
	go func() {
		_, err := io.Copy(write, &answer{event: e})
		if e.Interrupt {
			time.Sleep(100 * time.Millisecond) // what was written is on its way
			interrupted <- post(url+"/error", bytes.NewReader(document(e.Fail)), http.Header{errorType: {"Function.Midway"}}, nil)
		} else {
			interrupted <- nil
		}
		_ = write.CloseWithError(err)
	}()
	trailer := http.Header{errorType: nil, errorBody: nil}
	header := http.Header{"Lambda-Runtime-Function-Response-Mode": {"streaming"}, "Content-Type": {e.Type}}
	err := post(url+"/response", &failing{body, trailer}, header, trailer)
	return errors.Join(err, <-interrupted)
}

// post wants a 202.
func post(url string, body io.Reader, header, trailer http.Header) error {
	req, err := http.NewRequest(http.MethodPost, url, body) //nolint:noctx,gosec // the Runtime API, for as long as it takes
	if err != nil {
		return err
	}
	req.Header, req.Trailer = header, trailer
	resp, err := http.DefaultClient.Do(req) //nolint:gosec // the Runtime API
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusAccepted {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return errors.Join(err, resp.Body.Close())
}

func main() {
	if os.Getenv("RAW") == "" {
		lambda.Start(handle)
		return
	}
	var loops sync.WaitGroup
	for range 4 {
		loops.Go(func() {
			err := raw("http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/invocation/")
			fmt.Fprintln(os.Stderr, "streamer:", err)
			os.Exit(4) // a runtime client may
		})
	}
	loops.Wait()
}
