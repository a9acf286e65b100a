package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// order is the event of a rude runtime: what to do, which may need a time.
type order struct {
	Do      string
	SleepMS int
}

// rude is a runtime that takes invocations and does with them what they say.
type rude struct {
	base string // ends before the request id
	// over says that nothing more is asked for.
	over atomic.Bool
	mu   sync.Mutex
	// said is what the Runtime API answered to what was done, by order.
	said map[string][]string
}

// serve runs a rude runtime.
func serve() int {
	r := &rude{base: "http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/invocation/", said: map[string][]string{}}
	loops, err := strconv.Atoi(os.Getenv("AWS_LAMBDA_MAX_CONCURRENCY"))
	if err != nil {
		fmt.Println(err)
		return 2
	}
	for range loops {
		go r.loop()
	}
	return sleep()
}

func (r *rude) loop() {
	for !r.over.Load() {
		resp, err := http.Get(r.base + "next") //nolint:noctx // the Runtime API, for as long as it takes
		if err != nil {
			fmt.Println("next:", err)
			return
		}
		var o order
		err = json.NewDecoder(resp.Body).Decode(&o)
		_ = resp.Body.Close()
		if err != nil {
			fmt.Println("event:", err)
			return
		}
		r.obey(resp.Header.Get("Lambda-Runtime-Aws-Request-Id"), o)
	}
}

// obey does what an order says, and answers unless that was the answer.
func (r *rude) obey(id string, o order) {
	time.Sleep(time.Duration(o.SleepMS) * time.Millisecond)
	name := o.Do
	if o.SleepMS > 0 {
		name += " late"
	}
	instead := map[string]func(id string) string{
		"error":        func(id string) string { return r.post(id+"/error", "Runtime.X1", strings.NewReader("")) },
		"strange":      func(id string) string { return r.post(id+"/error", "My.Type", strings.NewReader("")) },
		"no json":      func(id string) string { return r.post(id+"/error", "Function.Own", strings.NewReader("no JSON")) },
		"long":         func(id string) string { return r.post(id+"/error", "Function.Long", many(1<<20+1)) },
		"large":        func(id string) string { return r.post(id+"/response", "", many(6<<20+101)) },
		"unknown size": func(id string) string { return r.post(id+"/response", "", io.MultiReader(many(6<<20+101))) },
		"mode": func(id string) string {
			return send(id, "Lambda-Runtime-Function-Response-Mode: buffered\r\nContent-Length: 2", "{}")
		},
		"cut":       func(id string) string { return send(id, "Content-Length: 100", "only ten b") },
		"cut chunk": func(id string) string { return send(id, "Transfer-Encoding: chunked", "ff\r\nonly ten b") },
		"no end":    func(id string) string { return send(id, "Transfer-Encoding: chunked", "a\r\nonly ten b\r\n") },
		"half":      func(id string) string { return send(id, "Content-Length: 6", `"half"`) },
		"trailers": func(id string) string {
			return send(id, "Transfer-Encoding: chunked\r\nLambda-Runtime-Function-Response-Mode: streaming\r\nTrailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body",
				"3\r\nabc\r\n0\r\nLambda-Runtime-Function-Error-Type: Function.Midway\r\nLambda-Runtime-Function-Error-Body: "+base64.StdEncoding.EncodeToString([]byte(`{"errorMessage":"midway"}`))+"\r\n\r\n")
		},
		"continue": func(id string) string { return send(id, "Expect: 100-continue\r\nContent-Length: 6", `"cont"`) },
		"quit":     func(string) string { os.Exit(0); return "" },
		"crash":    func(string) string { os.Exit(3); return "" },
		"signal":   func(string) string { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL); return "" },
		"abandon":  func(string) string { _ = inherit(); os.Exit(0); return "" },
		"freeze":   func(string) string { _ = syscall.Kill(os.Getpid(), syscall.SIGSTOP); return "" },
	}
	if act := instead[o.Do]; act != nil {
		r.note(name, act(id))
		return
	}
	r.before(id, o.Do)
	r.mu.Lock()
	body, _ := json.Marshal(struct {
		Environment string
		Said        map[string][]string
	}{os.Getenv("AWS_LAMBDA_LOG_STREAM_NAME"), r.said})
	r.mu.Unlock()
	r.note(name, r.post(id+"/response", "", bytes.NewReader(body)))
	r.after(id, o.Do)
}

// before does what needs no answer of its own.
func (r *rude) before(id, do string) {
	switch do {
	case "unknown":
		r.note(do, r.post("no-such-id/response", "", strings.NewReader("{}")))
		r.note(do, r.post("no-such-id/error", "", strings.NewReader("{}")))
	case "init error":
		r.note(do, raw("POST /2018-06-01/runtime/init/error HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"))
	case "garbage":
		r.note(do, raw("\x16\x03\x01 no HTTP\r\n\r\n"))
		r.note(do, raw("GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"))
		r.note(do, raw("DELETE /2018-06-01/runtime/invocation/"+id+"/response HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
	case "polls":
		r.note(do, polls())
	case "children":
		r.note(do, fmt.Sprint(inherit(), inherit()))
	}
}

// after does what comes when the answer was given.
func (r *rude) after(id, do string) {
	switch do {
	case "twice":
		r.note(do, r.post(id+"/response", "", strings.NewReader("{}")))
		r.note(do, r.post(id+"/error", "", strings.NewReader("{}")))
	case "leave":
		time.Sleep(100 * time.Millisecond)
		os.Exit(0)
	case "no more":
		r.over.Store(true)
	}
}

func (r *rude) note(do, said string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said[do] = append(r.said[do], said)
}

// inherit leaves a child behind that keeps the output open.
func inherit() error {
	cmd := exec.Command(os.Args[0]) //nolint:gosec,noctx // this program
	cmd.Env = append(os.Environ(), "BAD=sleep")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd.Start()
}

// polls asks for events on a thousand connections and hangs up on all of them.
func polls() string {
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for range 1000 {
		c, err := dialAPI()
		if err != nil {
			return err.Error()
		}
		conns = append(conns, c)
		if _, err := io.WriteString(c, "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err.Error()
		}
	}
	return fmt.Sprint(len(conns))
}

func many(n int64) io.Reader { return bytes.NewReader(bytes.Repeat([]byte("x"), int(n))) }

// post sends a body to a path and returns what is said.
func (r *rude) post(path, errorType string, body io.Reader) string {
	req, err := http.NewRequest(http.MethodPost, r.base+path, body) //nolint:noctx // the Runtime API
	if err != nil {
		return err.Error()
	}
	if errorType != "" {
		req.Header.Set("Lambda-Runtime-Function-Error-Type", errorType)
	}
	resp, err := http.DefaultClient.Do(req) //nolint:bodyclose // heard does
	return heard(resp, err)
}

// send sends an answer byte by byte as it is given, and then no more.
func send(id, headers, body string) string {
	return raw("POST /2018-06-01/runtime/invocation/" + id + "/response HTTP/1.1\r\nHost: x\r\n" + headers + "\r\n\r\n" + body)
}

// raw sends bytes on a connection of their own, then closes its half of it.
func raw(text string) string {
	c, err := dialAPI()
	if err != nil {
		return err.Error()
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		return err.Error()
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
	return heard(http.ReadResponse(bufio.NewReader(c), nil)) //nolint:bodyclose // heard does
}

func dialAPI() (net.Conn, error) {
	return net.DialTimeout("tcp", os.Getenv("AWS_LAMBDA_RUNTIME_API"), time.Second) //nolint:gosec,noctx // the Runtime API, bounded
}

func heard(resp *http.Response, err error) string {
	if err != nil {
		return err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	text, _ := io.ReadAll(resp.Body)
	return fmt.Sprint(resp.StatusCode, " ", strings.TrimSpace(string(text)))
}
