// Command tap is what the system tests of telemetry run. As tap-http and tap-tcp
// it is an extension that subscribes to telemetry and prints, at the end, all it
// got; as tap-silent one that never answers; and as anything else a function that
// prints.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

func main() {
	t := &tap{Tap: filepath.Base(os.Args[0])}
	var err error
	switch t.Tap {
	case "tap-http":
		err = t.extend(":4300", t.serve, `"platform","function","extension"`, `{"protocol":"HTTP","URI":"http://sandbox.localdomain:4300/tap?x=1"}`)
	case "tap-tcp":
		err = t.extend(":4301", t.accept, `"platform","function"`, `{"protocol":"TCP","port":4301}`)
	case "tap-silent":
		err = t.extend(":4302", nobody, `"platform","function","extension"`, `{"protocol":"HTTP","URI":"http://sandbox:4302"}`)
	default:
		lambda.Start(function)
	}
	if err != nil {
		fmt.Println("ending:", err)
		os.Exit(1)
	}
}

// order is what the function is to do.
type order struct {
	SleepMS int
	Fail    string
}

// function prints text and an object.
func function(ctx context.Context, o order) (string, error) {
	lc, _ := lambdacontext.FromContext(ctx)
	fmt.Println("text", lc.AwsRequestID)
	fmt.Printf("{\"level\":\"info\",\"requestId\":%q}\n", lc.AwsRequestID)
	time.Sleep(time.Duration(o.SleepMS) * time.Millisecond)
	if o.Fail != "" {
		return "", errors.New(o.Fail)
	}
	return lc.AwsRequestID, nil
}

// tap is what an extension got.
type tap struct {
	mu sync.Mutex

	Tap       string            `json:"tap"`
	Sequences []string          `json:"sequences"`
	Requests  []string          `json:"requests"`
	Events    []json.RawMessage `json:"events"`
}

// extend is an extension's life.
func (t *tap) extend(address string, listen func(net.Listener), types, destination string) error {
	id, said, err := call(http.MethodPost, "/2020-01-01/extension/register", `{"events":["SHUTDOWN"]}`, "Lambda-Extension-Name", t.Tap)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", address) //nolint:noctx // for as long as it takes
	if err != nil {
		return err
	}
	go listen(l)
	fmt.Println("listening", said != "")
	body := fmt.Sprintf(`{"schemaVersion":"2025-01-29","types":[%s],"buffering":{"timeoutMs":25},"destination":%s}`, types, destination)
	if _, said, err = call(http.MethodPut, "/2022-07-01/telemetry", body, "Lambda-Extension-Identifier", id); err != nil || said != `"OK"` {
		return fmt.Errorf("subscribing: %s %w", said, err)
	}
	if _, said, err = call(http.MethodGet, "/2020-01-01/extension/event/next", "", "Lambda-Extension-Identifier", id); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	got, err := json.Marshal(t)
	fmt.Printf("%s %s\n", got, said)
	return err
}

func (t *tap) serve(l net.Listener) {
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var batch []json.RawMessage
		err := json.NewDecoder(r.Body).Decode(&batch)
		t.mu.Lock()
		defer t.mu.Unlock()
		if err != nil {
			t.Requests = append(t.Requests, err.Error())
		}
		t.Sequences = append(t.Sequences, r.Header.Get("Sequence-Id"))
		t.Requests = append(t.Requests, r.Method+" "+r.Host+" "+r.URL.String()+" "+r.Header.Get("Content-Type"))
		t.Events = append(t.Events, batch...)
	})}
	fmt.Println("ending:", server.Serve(l))
}

func (t *tap) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			for lines := bufio.NewScanner(c); lines.Scan(); {
				t.mu.Lock()
				t.Events = append(t.Events, json.RawMessage(bytes.Clone(lines.Bytes())))
				t.mu.Unlock()
			}
		}()
	}
}

// nobody accepts connections and does nothing with them.
func nobody(l net.Listener) {
	var open []net.Conn
	for {
		c, err := l.Accept()
		if err != nil {
			fmt.Println("ending with", len(open), err)
			return
		}
		open = append(open, c)
	}
}

// call asks the APIs of the environment.
func call(method, path, body, header, value string) (id, said string, err error) {
	req, err := http.NewRequest(method, "http://"+os.Getenv("AWS_LAMBDA_RUNTIME_API")+path, bytes.NewBufferString(body)) //nolint:gosec,noctx // the environment's own
	if err != nil {
		return "", "", err
	}
	req.Header.Set(header, value)
	resp, err := http.DefaultClient.Do(req) //nolint:gosec // the environment's own
	if err != nil {
		return "", "", err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, answer)
	}
	return resp.Header.Get("Lambda-Extension-Identifier"), string(answer), err
}
