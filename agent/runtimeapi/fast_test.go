package runtimeapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hearth-compute/hearth/agent"
)

const (
	nextHead = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\n"
	respHead = "POST /2018-06-01/runtime/invocation/r-1/response HTTP/1.1\r\n"
	goClient = "Host: 127.0.0.1:9001\r\nUser-Agent: aws-lambda-go/go1.26\r\n"
)

func TestHotRequestsAreRecognised(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]parsed{
		nextHead + goClient + "Accept-Encoding: gzip\r\n\r\n":  whole,
		nextHead + "Host: x\r\n\r\n":                           whole,
		nextHead + "Host: x\r\nConnection: keep-alive\r\n\r\n": whole,
		nextHead + "Host: x\r\n":                               partial,
		"GET /2018-06-01/runtime/inv":                          partial,
		"":                                                     partial,
		respHead + goClient + "Content-Length: 2\r\n\r\n{}":    whole,
		respHead + goClient + "content-length:2\r\n\r\n{":      partial,
		respHead + goClient + "Transfer-Encoding: chunked\r\nTrailer: " + goTrailer + "\r\n\r\n2\r\n{}\r\n0\r\n\r\n": whole,
		respHead + goClient + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n":                                   partial,
		respHead + goClient + "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n":                      whole,
		nextHead + "\r\n": other, // net/http wants a host
		nextHead + "Host: x\r\nConnection: close\r\n\r\n":                     other,
		nextHead + "Host: x\r\nContent-Length: 0\r\n\r\n":                     other,
		nextHead + "Host: x\r\nHost: y\r\n\r\n":                               other,
		nextHead + "Host: x\r\nUpgrade: h2c\r\n\r\n":                          other,
		nextHead + "Host: x\r\n folded: y\r\n\r\n":                            other,
		"GET /2018-06-01/runtime/invocation/next HTTP/1.0\r\nHost: x\r\n\r\n": other,
		"PUT /": other,
		"POST /2018-06-01/runtime/invocation/r%2d1/response HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n": other,
		"POST /2018-06-01/runtime/invocation//response HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n":      other,
		"POST /2018-06-01/runtime/invocation/" + strings.Repeat("r", maxID+1) + "/response HTTP/1.1\r\n":      other,
		"POST /2018-06-01/runtime/invocation/r-1/error HTTP/1.1\r\n":                                          other,
		respHead + "Host: x\r\n\r\n": other,
		respHead + "Host: x\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}":                                             other,
		respHead + "Host: x\r\nContent-Length: +2\r\n\r\n{}":                                                                 other,
		respHead + "Host: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n":                  other,
		respHead + "Host: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n":                                                     other,
		respHead + "Host: x\r\nContent-Length: 2\r\nLambda-Runtime-Function-Response-Mode: streaming\r\n\r\n{}":              other,
		respHead + "Host: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n":                                            other,
		respHead + "Host: x\r\nContent-Length: " + strconv.Itoa(smallAnswer+1) + "\r\n\r\n":                                  other,
		respHead + "Host: x\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\n{}\r\n0\r\n\r\n":                                     other,
		respHead + "Host: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}0\r\n\r\n\r\n":                                       other,
		respHead + "Host: x\r\nTransfer-Encoding: chunked\r\nTrailer: " + goTrailer + "\r\n\r\n0\r\nLambda-Runtime-F: x\r\n": other,
	} {
		if _, got := parseHot([]byte(text)); got != want {
			t.Errorf("%q: got %d, want %d", text, got, want)
		}
	}
}

// FuzzParse: what is recognised, net/http reads in the same way; what came only
// in part is never taken for something else than the whole.
func FuzzParse(f *testing.F) {
	f.Add([]byte(nextHead + goClient + "\r\n"))
	f.Add([]byte(respHead + goClient + "Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}GET"))
	f.Add([]byte(respHead + goClient + "Transfer-Encoding: chunked\r\nTrailer: " + goTrailer + "\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		kept := bytes.Clone(b)
		got, what := parseHot(b)
		if !bytes.Equal(kept, b) {
			t.Fatal("the buffer was changed")
		}
		for cut := range b {
			if _, before := parseHot(b[:cut]); what == whole && cut < got.size && before != partial {
				t.Fatalf("%q: the first %d bytes are %d", b, cut, before)
			}
		}
		if what != whole {
			return
		}
		same(t, b, got)
	})
}

// same requires that net/http reads the request b begins with as got.
func same(t *testing.T, b []byte, got hot) {
	t.Helper()
	in := bufio.NewReader(bytes.NewReader(b))
	r, err := http.ReadRequest(in)
	if err != nil {
		t.Fatalf("net/http refuses %q: %v", b, err)
	}
	body, err := io.ReadAll(r.Body)
	if err := errors.Join(err, r.Body.Close()); err != nil {
		t.Fatalf("net/http refuses the body of %q: %v", b, err)
	}
	method, path := http.MethodGet, pathBase+pathNext
	if got.answer {
		method, path = http.MethodPost, pathBase+pathInvocation+string(got.id)+"/response"
	}
	if r.URL.Path != path || r.Method != method || r.Close || r.Trailer.Get(headerErrorType) != "" {
		t.Fatalf("got %+v, net/http %+v", got, r)
	}
	if !bytes.Equal(body, got.body) || got.answer && r.Header.Get("Content-Type") != string(got.contentType) {
		t.Fatalf("got %q, net/http %q", got.body, body)
	}
	if rest, _ := io.ReadAll(in); len(rest) != len(b)-got.size {
		t.Fatalf("got %d bytes, net/http left %d of %d", got.size, len(rest), len(b))
	}
}

// tcp serves an API on loopback and returns its address.
func tcp(t *testing.T) (*API, string) {
	t.Helper()
	api := New(Config{Environment: "e", Concurrency: 1, Log: slog.New(slog.DiscardHandler)})
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := api.Serve(ctx, l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(nil); wg.Wait() })
	return api, l.Addr().String()
}

// wire is a client that writes bytes and reads answers.
type wire struct {
	t *testing.T
	net.Conn

	in *bufio.Reader
}

func connect(t *testing.T, address string) *wire {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	t.Cleanup(func() { _ = c.Close() })
	return &wire{t: t, Conn: c, in: bufio.NewReader(c)}
}

func (w *wire) send(text string) {
	w.t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		w.t.Fatal(err)
	}
}

// receive reads one answer.
func (w *wire) receive() answer {
	w.t.Helper()
	r, err := http.ReadResponse(w.in, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if err := errors.Join(err, r.Body.Close()); err != nil {
		w.t.Fatal(err)
	}
	return answer{r.StatusCode, r.Header, string(body)}
}

type answer struct {
	status int
	header http.Header
	body   string
}

// must receives an answer of that status which contains text.
func (w *wire) must(status int, text string) answer {
	w.t.Helper()
	got := w.receive()
	if got.status != status || !strings.Contains(got.body, text) {
		w.t.Fatalf("got %d %.100q, want %d %.100q", got.status, got.body, status, text)
	}
	return got
}

// ended waits for the invocation and requires its payload.
func ended(t *testing.T, done <-chan invoked, payload string) agent.Outcome {
	t.Helper()
	got := <-done
	if got.err != nil || !strings.Contains(string(got.out.Payload), payload) {
		t.Fatalf("got %v %.100q, want %.100q", got.err, got.out.Payload, payload)
	}
	return got.out
}

type invoked struct {
	out agent.Outcome
	err error
}

func invoke(t *testing.T, api *API, payload []byte) <-chan invoked {
	t.Helper()
	done := make(chan invoked, 1)
	<-api.Ready()
	go func() {
		out, err := api.Invoke(t.Context(), agent.Invocation{
			RequestID: "r-1", Timeout: time.Minute, InvokedARN: "arn", TraceID: "Root=1\r\nEvil: yes", ClientContext: "{}",
		}, payload)
		done <- invoked{out, err}
	}()
	return done
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

func (a *API) pending() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pollers.Len()
}

// TestBothWaysGiveTheSameAnswers: what comes over a connection is the same
// whether it was answered by hand or by net/http.
func TestBothWaysGiveTheSameAnswers(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 2, inlineEvent, inlineEvent + 1, 1 << 20} {
		event := strings.Repeat("e", size)
		hand := exchange(t, event, "")
		std := exchange(t, event, "Connection: Keep-Alive, x\r\n") // net/http's
		for name := range std {
			if name != "Date" && name != "Lambda-Runtime-Deadline-Ms" && hand.Get(name) != std.Get(name) {
				t.Errorf("%s: %q by hand, %q by net/http", name, hand.Get(name), std.Get(name))
			}
		}
		if len(hand) != len(std)-1 { // net/http says the date, too
			t.Errorf("got %v and %v", hand, std)
		}
	}
}

// exchange runs one invocation and returns the header of its event.
func exchange(t *testing.T, event, extra string) http.Header {
	t.Helper()
	api, address := tcp(t)
	w := connect(t, address)
	w.send(nextHead + "Host: x\r\n" + extra + "\r\n")
	done := invoke(t, api, []byte(event))
	got := w.must(http.StatusOK, event)
	w.send(respHead + "Host: x\r\n" + extra + "Content-Type: text/plain\r\nContent-Length: 2\r\n\r\nok")
	if a := w.must(http.StatusAccepted, statusOK); a.header.Get("Content-Type") != contentTypeJSON {
		t.Errorf("got %v", a.header)
	}
	if out := ended(t, done, "ok"); out.ContentType != "text/plain" {
		t.Errorf("got %+v", out)
	}
	return got.header
}

func TestAConnectionGoesOverToNetHTTPAndStaysWhole(t *testing.T) {
	t.Parallel()
	api, address := tcp(t)
	w := connect(t, address)
	// Everything at once, before there is an event.
	w.send(nextHead + "Host: x\r\n\r\n" + "GET /2018-06-01/ping HTTP/1.1\r\nHost: x\r\n\r\n" + nextHead + "Host: x\r\n\r\n")
	done := invoke(t, api, []byte("one"))
	w.must(http.StatusOK, "one")
	w.must(http.StatusOK, "pong")
	second := connect(t, address)
	second.send(strings.Repeat(respHead+"Host: x\r\nContent-Length: 2\r\n\r\nok", 2))
	second.must(http.StatusAccepted, statusOK)
	second.must(http.StatusBadRequest, "InvalidRequestID")
	ended(t, done, "ok")
	done = invoke(t, api, []byte("two"))
	w.must(http.StatusOK, "two")
	w.send("POST /2018-06-01/runtime/invocation/r-1/error HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
	if out := ended(t, done, "{}"); out.FunctionError == "" {
		t.Fatalf("got %+v", out)
	}
}

func TestAnAnswerMayComeInAnyPieces(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("b", 40<<10)
	for name, text := range map[string]string{
		"length": respHead + goClient + "Content-Length: " + strconv.Itoa(len(big)) + "\r\n\r\n" + big,
		"chunks": respHead + goClient + "Transfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf("%x\r\n%s\r\n1\r\nb\r\n0\r\n\r\n", len(big)-1, big[1:]),
		"more than the buffer": respHead + goClient + "Transfer-Encoding: chunked\r\n\r\n" +
			strings.Repeat("1\r\nb\r\n", len(big)) + "0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api, address := tcp(t)
			w := connect(t, address)
			w.send(nextHead + "Host: x\r\n\r\n")
			done := invoke(t, api, nil)
			w.must(http.StatusOK, "")
			for len(text) > 0 {
				n := min(len(text), 1+len(text)/7)
				w.send(text[:n])
				text = text[n:]
			}
			w.must(http.StatusAccepted, statusOK)
			if out := ended(t, done, big); len(out.Payload) != len(big) {
				t.Fatalf("got %d bytes", len(out.Payload))
			}
		})
	}
}

func TestACutAnswerIsTruncated(t *testing.T) {
	t.Parallel()
	api, address := tcp(t)
	w := connect(t, address)
	w.send(nextHead + "Host: x\r\n\r\n")
	done := invoke(t, api, nil)
	w.must(http.StatusOK, "")
	w.send(respHead + "Host: x\r\nContent-Length: 9\r\n\r\nok")
	_ = w.Conn.(*net.TCPConn).CloseWrite() //nolint:forcetypeassert // it is one
	w.must(http.StatusBadRequest, "TruncatedHTTPRequest")
	ended(t, done, "Runtime.TruncatedResponse")
}

// TestInvariant2_AClientThatHungUpGetsNoEvent: the event goes to the poll after
// it.
func TestInvariant2_AClientThatHungUpGetsNoEvent(t *testing.T) {
	t.Parallel()
	api, address := tcp(t)
	for range 50 {
		gone, stays := connect(t, address), connect(t, address)
		gone.send(nextHead + "Host: x\r\n\r\n")
		eventually(t, "the first poll is pending", func() bool { return api.pending() == 1 })
		stays.send(nextHead + "Host: x\r\n\r\n")
		eventually(t, "both polls are pending", func() bool { return api.pending() == 2 })
		_ = gone.Close()
		done := invoke(t, api, nil)
		stays.must(http.StatusOK, "")
		stays.send(respHead + "Host: x\r\nContent-Length: 2\r\n\r\nok")
		ended(t, done, "ok")
		_ = stays.Close()
		eventually(t, "no poll is pending", func() bool { return api.pending() == 0 })
	}
}

func TestPollsThatLeaveGiveTheirPlacesBack(t *testing.T) {
	t.Parallel()
	api, address := tcp(t)
	for range 5 * (4 + 64) { // five times as many as may be open
		w := connect(t, address)
		w.send(nextHead + "Host: x\r\n\r\n")
		eventually(t, "pending", func() bool { return api.pending() == 1 })
		_ = w.Close()
		eventually(t, "not pending", func() bool { return api.pending() == 0 })
	}
}

func TestAnExitEndsPendingPolls(t *testing.T) {
	t.Parallel()
	api, address := tcp(t)
	w := connect(t, address)
	w.send(nextHead + "Host: x\r\n\r\n")
	eventually(t, "pending", func() bool { return api.pending() == 1 })
	api.Exited(Exit{})
	if _, err := w.in.ReadByte(); !errors.Is(err, io.EOF) {
		t.Fatalf("got %v", err)
	}
}

// TestARuntimeThatDoesNotReadItsEventIsTimedOut: nothing waits for it longer than
// the invocation may take.
func TestARuntimeThatDoesNotReadItsEventIsTimedOut(t *testing.T) {
	t.Parallel()
	api, address := tcp(t)
	w := connect(t, address)
	w.send(nextHead + "Host: x\r\n\r\n")
	eventually(t, "pending", func() bool { return api.pending() == 1 })
	inv := agent.Invocation{RequestID: "r-1", Timeout: 200 * time.Millisecond}
	out, err := api.Invoke(t.Context(), inv, make([]byte, 64<<20)) // more than the kernel keeps
	if err != nil || !strings.Contains(string(out.Payload), "Sandbox.Timedout") {
		t.Fatalf("got %v %s", err, out.Payload)
	}
}
