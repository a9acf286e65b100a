package lambdaapi_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gocloud.dev/blob/memblob"

	"github.com/hearth-compute/hearth/controlplane/artifact"
	"github.com/hearth-compute/hearth/controlplane/lambdaapi"
	"github.com/hearth-compute/hearth/controlplane/store"
	"github.com/hearth-compute/hearth/controlplane/store/sqlite"
)

// front is an API behind its own listener, which is in memory.
type front struct {
	t       testing.TB
	api     *lambdaapi.Server
	lis     *pipes
	invoker *scripted
}

// pipes is a listener in memory. Its connections take nothing that nobody reads.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (*pipes) Addr() net.Addr { return &net.TCPAddr{} }

func newFront(t testing.TB, db store.DB, change func(*lambdaapi.Config)) *front {
	t.Helper()
	f := &front{t: t, lis: newPipes(), invoker: &scripted{echo: true}}
	artifacts := artifact.New(memblob.OpenBucket(nil))
	cfg := lambdaapi.Config{
		AccountID: account, Region: region, DB: db, Artifacts: artifacts, Invoker: f.invoker,
		Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if f.api, err = lambdaapi.New(cfg); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- f.api.Serve(f.lis) }()
	t.Cleanup(func() {
		if err := f.api.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
		_ = artifacts.Close()
	})
	return f
}

// noDB is for tests that need no store.
type noDB struct{ store.DB }

func emptyDB(t testing.TB) store.DB {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "hearth.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func (f *front) dial() net.Conn {
	f.t.Helper()
	ours, theirs := net.Pipe()
	f.t.Cleanup(func() { _ = ours.Close() })
	f.lis.conns <- theirs
	return ours
}

// said is an answer with its body.
type said struct {
	status    int
	header    http.Header
	exception string
	body      string
	closes    bool
}

// hear reads one answer, which whatever it is has the form of AWS's.
func hear(t testing.TB, in *bufio.Reader, method string) said {
	t.Helper()
	w, err := http.ReadResponse(in, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	defer func() { _ = w.Body.Close() }()
	body, err := io.ReadAll(w.Body)
	if err != nil {
		t.Fatalf("half an answer: %v", err)
	}
	got := said{w.StatusCode, w.Header, w.Header.Get("X-Amzn-Errortype"), string(body), w.Close}
	if w.Header.Get("X-Amzn-Requestid") == "" {
		t.Errorf("no request id: %+v", got)
	}
	if w.StatusCode >= http.StatusBadRequest && method != http.MethodHead {
		wellSaid(t, got)
	}
	return got
}

// wellSaid checks the body of an error.
func wellSaid(t testing.TB, got said) {
	t.Helper()
	var members map[string]string
	if err := json.Unmarshal([]byte(got.body), &members); err != nil || members["Type"] == "" || members["message"]+members["Message"] == "" {
		t.Errorf("an error that is not AWS's: %+v (%v)", got, err)
	}
	if got.exception == "" || got.header.Get("Content-Type") != "application/json" {
		t.Errorf("an error without type: %+v", got)
	}
}

// raw sends bytes and returns the first answer to them.
func (f *front) raw(text string) said {
	f.t.Helper()
	c := f.dial()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.WriteString(c, text) // the server may hang up before it has all
	}()
	got := hear(f.t, bufio.NewReader(c), strings.Split(text, " ")[0])
	_ = c.Close()
	<-sent
	return got
}

const (
	host        = " HTTP/1.1\r\nHost: x\r\n"
	invocations = "POST " + functionsPath + "/f/invocations"
	create      = "POST " + functionsPath + host
)

func withBody(head, body string) string {
	return head + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
}

func TestWhatIsNoHTTPIsAnsweredAsAWSDoes(t *testing.T) {
	t.Parallel()
	f := newFront(t, noDB{}, nil)
	for name, c := range map[string]struct {
		request string
		status  int
	}{
		"no request":              {"hello\r\n\r\n", 400},
		"a TLS hello":             {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400},
		"HTTP/3.7":                {"GET / HTTP/3.7\r\nHost: x\r\n\r\n", 400},
		"a bad escape in a path":  {"GET " + functionsPath + "/%zz" + host + "\r\n", 400},
		"half an escape":          {"GET " + functionsPath + "/%4" + host + "\r\n", 400},
		"a space in a path":       {"GET /a b" + host + "\r\n", 400},
		"no host":                 {"GET / HTTP/1.1\r\n\r\n", 400},
		"two hosts":               {"GET /" + host + "Host: y\r\n\r\n", 400},
		"a bad header name":       {"GET /" + host + "Con tent: x\r\n\r\n", 400},
		"a NUL in a header":       {"GET /" + host + "X-A: \x00\r\n\r\n", 400},
		"no colon":                {"GET /" + host + "nothing\r\n\r\n", 400},
		"a bad method":            {"G@T /" + host + "\r\n", 400},
		"a huge header":           {"GET /" + host + "X-A: " + strings.Repeat("a", 70_000) + "\r\n\r\n", 431},
		"many headers":            {"GET /" + host + strings.Repeat("X-A: b\r\n", 10_000) + "\r\n", 431},
		"a huge path":             {"GET /" + strings.Repeat("a", 70_000) + host + "\r\n", 431},
		"a negative length":       {invocations + host + "Content-Length: -1\r\n\r\n", 400},
		"an absurd length":        {invocations + host + "Content-Length: 99999999999999999999\r\n\r\n", 400},
		"two lengths":             {invocations + host + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", 400},
		"an unknown coding":       {invocations + host + "Transfer-Encoding: gzip\r\n\r\n", 400},
		"an unknown expectation":  {invocations + host + "Expect: mercy\r\nContent-Length: 2\r\n\r\n{}", 417},
		"its own words, repeated": {"HTTP/1.1 200 OK\r\n\r\n", 400},
	} {
		t.Run(name, func(t *testing.T) {
			got := f.raw(c.request)
			if got.status != c.status || got.exception != "MalformedHttpRequestException" || !got.closes {
				t.Errorf("got %+v, want %d", got, c.status)
			}
		})
	}
	if f.invoker.calls != 0 {
		t.Errorf("%d requests got through", f.invoker.calls)
	}
}

func TestHeadersOf60KBAreTaken(t *testing.T) {
	t.Parallel()
	f := newFront(t, noDB{}, nil)
	got := f.raw(withBody(invocations+host+"X-A: "+strings.Repeat("a", 60_000)+"\r\n", "{}"))
	if got.status != http.StatusOK {
		t.Errorf("got %+v", got)
	}
}

func TestOddRequestsAreAnsweredAsAWSDoes(t *testing.T) {
	t.Parallel()
	const (
		malformed  = "MalformedHttpRequestException"
		serial     = "SerializationException"
		unknown    = "UnknownOperationException"
		content    = "InvalidRequestContentException"
		validation = "ValidationException"
	)
	list := "GET " + functionsPath
	f := newFront(t, emptyDB(t), nil)
	for name, c := range map[string]struct {
		request   string
		status    int
		exception string
	}{
		"a proxy's request":         {"CONNECT example.com:443" + host + "\r\n", 404, unknown},
		"about the server":          {"OPTIONS *" + host + "\r\n", 404, unknown},
		"options of a path":         {"OPTIONS " + functionsPath + host + "\r\n", 405, unknown},
		"a trace":                   {"TRACE " + functionsPath + host + "\r\n", 405, unknown},
		"a head of a function":      {"HEAD " + functionsPath + "/f" + host + "\r\n", 404, "ResourceNotFoundException"},
		"a target with a host":      {"GET http://elsewhere" + functionsPath + host + "\r\n", 200, ""},
		"HTTP/2":                    {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404, unknown},
		"HTTP/1.0":                  {"GET " + functionsPath + " HTTP/1.0\r\n\r\n", 200, ""},
		"HTTP/1.0, unknown":         {"GET /x HTTP/1.0\r\n\r\n", 404, unknown},
		"an unclean path":           {"GET /x/../" + functionsPath + host + "\r\n", 404, unknown},
		"an unclean target":         {"GET http:///.." + functionsPath + " HTTP/1.0\r\n\r\n", 404, unknown},
		"a name that is a NUL":      {"GET " + functionsPath + "/%00" + host + "\r\n", 400, validation},
		"a name that is no UTF-8":   {"GET " + functionsPath + "/%ff%fe" + host + "\r\n", 400, validation},
		"a name with a slash":       {"GET " + functionsPath + "/a%2Fb" + host + "\r\n", 400, validation},
		"a bad escape in a query":   {list + "?Marker=%zz" + host + "\r\n", 400, malformed},
		"the qualifier too":         {withBody(invocations+"?Qualifier=%zz"+host, "{}"), 400, malformed},
		"contradictory query":       {list + "?MaxItems=1&MaxItems=2" + host + "\r\n", 400, serial},
		"contradictory qualifiers":  {withBody(invocations+"?Qualifier=1&Qualifier=2"+host, "{}"), 400, serial},
		"a repeated query":          {list + "?MaxItems=1&MaxItems=1" + host + "\r\n", 200, ""},
		"an unknown query":          {list + "?Whatever=1" + host + "\r\n", 200, ""},
		"a huge number in a query":  {list + "?MaxItems=99999999999" + host + "\r\n", 400, serial},
		"not UTF-8":                 {withBody(create, "{\"Description\":\"\xff\"}"), 400, serial},
		"deeply nested":             {withBody(create, strings.Repeat(`{"a":`, 20_000)+"1"+strings.Repeat("}", 20_000)), 400, serial},
		"deeply nested, invoked":    {withBody(invocations+host, strings.Repeat("[", 20_000)+strings.Repeat("]", 20_000)), 400, content},
		"a byte order mark":         {withBody(create, "\xef\xbb\xbf{}"), 400, serial},
		"a NUL":                     {withBody(create, "{\x00}"), 400, serial},
		"two values":                {withBody(create, "{}{}"), 400, serial},
		"a huge number":             {withBody(create, `{"Timeout":1e999}`), 400, serial},
		"a huge integer":            {withBody(create, `{"MemorySize":9223372036854775808}`), 400, serial},
		"compressed":                {withBody(create+"Content-Encoding: gzip\r\n", "\x1f\x8b\x08\x00"), 400, malformed},
		"a compressed payload":      {withBody(invocations+host+"Content-Encoding: gzip\r\n", "\x1f\x8b\x08\x00"), 400, malformed},
		"another content type":      {withBody(create+"Content-Type: text/xml\r\n", "<a/>"), 400, serial},
		"a list without end":        {withBody(create, `{"Layers":[`+strings.Repeat(`"",`, 20_000)+`""]}`), 400, serial},
		"a map without end":         {withBody(create, `{"Tags":{`+manyKeys(20_000)+`}}`), 400, serial},
		"a broken chunk":            {invocations + host + "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}", 400, malformed},
		"a type that is no text":    {withBody(invocations+host+"Content-Type: \xff\r\n", "{}"), 400, malformed},
		"a trace id that is none":   {withBody(invocations+host+"X-Amzn-Trace-Id: \xff\r\n", "{}"), 400, malformed},
		"a context that is no text": {withBody(invocations+host+"X-Amz-Client-Context: Iv8i\r\n", "{}"), 400, content},
	} {
		t.Run(name, func(t *testing.T) {
			if got := f.raw(c.request); got.status != c.status || got.exception != c.exception {
				t.Errorf("got %d %s %.300s, want %d %s", got.status, got.exception, got.body, c.status, c.exception)
			}
		})
	}
	if f.invoker.calls != 0 {
		t.Errorf("%d requests got through", f.invoker.calls)
	}
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"k%d":"v"`, i)
	}
	return b.String()[1:]
}

func TestOfARepeatedMemberTheLastCounts(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	w, body := s.send("PUT", functionsPath+"/f/configuration", strings.NewReader(
		` {"Description":"first","Timeout":5 , "Description":"l\u0061st","Environment":{"Variables":{"AA":"1","AA":"2"}},"Timeout":null}`))
	if w.StatusCode != http.StatusOK || !strings.Contains(body, `"Description":"last"`) || !strings.Contains(body, `{"AA":"2"}`) ||
		!strings.Contains(body, `"Timeout":3`) {
		t.Errorf("%d %s", w.StatusCode, body)
	}
}

func TestABodyThatWillBeTooLargeIsRefusedBeforeItIsSent(t *testing.T) {
	t.Parallel()
	f := newFront(t, noDB{}, nil)
	for name, c := range map[string]struct {
		head, exception string
		length          int
	}{
		"an invoke":  {invocations + host, "RequestTooLargeException", 6291457},
		"a function": {create, "RequestEntityTooLargeException", 69905068},
	} {
		t.Run(name, func(t *testing.T) {
			conn := f.dial()
			if _, err := fmt.Fprintf(conn, "%sExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", c.head, c.length); err != nil {
				t.Fatal(err)
			}
			if got := hear(t, bufio.NewReader(conn), "POST"); got.status != http.StatusRequestEntityTooLarge || got.exception != c.exception {
				t.Errorf("got %+v", got)
			}
		})
	}
	conn := f.dial()
	in := bufio.NewReader(conn)
	if _, err := io.WriteString(conn, invocations+host+"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 100") {
		t.Fatalf("got %q %v", line, err)
	}
	if _, err := in.Discard(2); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "{}"); err != nil {
		t.Fatal(err)
	}
	if got := hear(t, in, "POST"); got.status != http.StatusOK || got.body != "{}" {
		t.Errorf("got %+v", got)
	}
}

func TestAnAnswerMayLookLikeARefusal(t *testing.T) {
	t.Parallel()
	f := newFront(t, noDB{}, nil)
	canned := "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request"
	payload, err := json.Marshal(strings.Repeat(canned, 200))
	if err != nil {
		t.Fatal(err)
	}
	if got := f.raw(withBody(invocations+host, string(payload))); got.body != string(payload) {
		t.Errorf("the answer was changed: %d bytes of %d", len(got.body), len(payload))
	}
}

func TestARefusalAfterAnAnswerIsAWSsToo(t *testing.T) {
	t.Parallel()
	f := newFront(t, noDB{}, nil)
	conn := f.dial()
	in := bufio.NewReader(conn)
	go func() { _, _ = io.WriteString(conn, withBody(invocations+host, "{}")+"garbage\r\n\r\n") }()
	if got := hear(t, in, "POST"); got.status != http.StatusOK {
		t.Errorf("got %+v", got)
	}
	if got := hear(t, in, "POST"); got.status != http.StatusBadRequest || got.exception != "MalformedHttpRequestException" {
		t.Errorf("got %+v", got)
	}
}

func TestABodyCutShortIsRefused(t *testing.T) {
	t.Parallel()
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0") // a half-closed connection needs TCP
	if err != nil {
		t.Fatal(err)
	}
	f := newFront(t, noDB{}, nil)
	served := make(chan error, 1)
	go func() { served <- f.api.Serve(lis) }()
	t.Cleanup(func() { _ = errors.Join(lis.Close(), <-served) })
	for name, request := range map[string]string{
		"by its length": invocations + host + "Content-Length: 100\r\n\r\n{\"a\":",
		"in chunks":     invocations + host + "Transfer-Encoding: chunked\r\n\r\n5\r\n{\"a\"",
		"of a function": create + "Content-Length: 100\r\n\r\n{",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.DialTCP("tcp", nil, lis.Addr().(*net.TCPAddr)) //nolint:forcetypeassert // it is one
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(conn, request); err != nil {
				t.Fatal(err)
			}
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got := hear(t, bufio.NewReader(conn), "POST"); got.status != http.StatusBadRequest {
				t.Errorf("got %+v", got)
			}
		})
	}
	if f.invoker.calls != 0 {
		t.Errorf("the router was asked %d times", f.invoker.calls)
	}
}

func TestABodyLongerThanItSaysIsTheNextRequest(t *testing.T) {
	t.Parallel()
	f := newFront(t, noDB{}, nil)
	if got := f.raw(invocations + host + "Content-Length: 2\r\n\r\n{}{\"more\":1}\r\n\r\n"); got.status != http.StatusOK || got.body != "{}" {
		t.Errorf("got %+v", got)
	}
	if seen := f.invoker.seen(); !bytes.Equal(seen.Payload, []byte("{}")) {
		t.Errorf("the function got %q", seen.Payload)
	}
}
