package runtimeapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hearth-compute/hearth/agent"
)

const (
	pathBase       = "/2018-06-01/"
	pathPing       = "ping"
	pathNext       = "runtime/invocation/next"
	pathInitError  = "runtime/init/error"
	pathInvocation = "runtime/invocation/"

	headerErrorType    = "Lambda-Runtime-Function-Error-Type"
	headerErrorBody    = "Lambda-Runtime-Function-Error-Body"
	headerResponseMode = "Lambda-Runtime-Function-Response-Mode"
)

// maxContentType is the longest content type passed on.
const maxContentType = 1 << 10

// statusOK is the body of every 202.
const statusOK = "{\"status\":\"OK\"}\n"

var errTooLarge = errors.New("body too large")

// ServeHTTP answers one request of the runtime. Routing is by hand: the
// standard multiplexer would redirect unclean paths and answer misses in plain
// text.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if p := recover(); p != nil {
			a.cfg.Log.ErrorContext(r.Context(), "runtime api handler panicked", "environment", string(a.cfg.Environment), "panic", fmt.Sprint(p))
			panic(http.ErrAbortHandler)
		}
	}()
	begun(r.Context())
	if r.ContentLength != 0 { // also when nobody reads the body
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	}
	if r.URL.Path == PathCredentials && a.credentials != nil {
		only(http.MethodGet, a.credentials.serveCredentials, w, r)
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, pathBase)
	if !ok {
		if a.serveExtension(w, r) || a.serveTelemetry(w, r) {
			return
		}
		fail(w, http.StatusNotFound, "NotFound", "Unknown path")
		return
	}
	switch path {
	case pathNext:
		only(http.MethodGet, a.next, w, r)
	case pathInitError:
		only(http.MethodPost, a.initFailed, w, r)
	case pathPing:
		only(http.MethodGet, ping, w, r)
	default:
		a.serveAnswer(path, w, r)
	}
}

// serveAnswer routes runtime/invocation/{id}/{response,error}.
func (a *API) serveAnswer(path string, w http.ResponseWriter, r *http.Request) {
	rest, ok := strings.CutPrefix(path, pathInvocation)
	id, verb, cut := strings.Cut(rest, "/")
	switch {
	case ok && cut && verb == "response":
		only(http.MethodPost, func(w http.ResponseWriter, r *http.Request) { a.response(id, w, r) }, w, r)
	case ok && cut && verb == "error":
		only(http.MethodPost, func(w http.ResponseWriter, r *http.Request) { a.functionError(id, w, r) }, w, r)
	default:
		fail(w, http.StatusNotFound, "NotFound", "Unknown path")
	}
}

func only(method string, h http.HandlerFunc, w http.ResponseWriter, r *http.Request) {
	if r.Method != method {
		w.Header().Set("Allow", method)
		fail(w, http.StatusMethodNotAllowed, "MethodNotAllowed", "Method not allowed")
		return
	}
	h(w, r)
}

func ping(w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, "pong")
}

// next hands the runtime one invocation.
func (a *API) next(w http.ResponseWriter, r *http.Request) {
	a.becomeReady()
	x, err := a.poll(r.Context())
	switch {
	case errors.Is(err, errTooManyPolls):
		fail(w, http.StatusInternalServerError, "Runtime.TooManyIdleRuntimes", "Too many idle runtimes")
		return
	case err != nil:
		// An extension may have ended, and the runtime lives for a moment: an answer
		// without an event would make it ask again at once.
		<-r.Context().Done()
		return
	}
	contentType := x.ContentType
	if contentType == "" {
		contentType = contentTypeJSON
	}
	// One array for all values; every header is present even when empty.
	v := [...]string{
		contentType, strconv.Itoa(len(x.payload)), x.RequestID, strconv.FormatInt(x.deadline.UnixMilli(), 10),
		x.InvokedARN, x.TraceID, x.ClientContext, "",
	}
	h := w.Header()
	h["Content-Type"] = v[0:1:1]
	h["Content-Length"] = v[1:2:2]
	h["Lambda-Runtime-Aws-Request-Id"] = v[2:3:3]
	h["Lambda-Runtime-Deadline-Ms"] = v[3:4:4]
	h["Lambda-Runtime-Invoked-Function-Arn"] = v[4:5:5]
	h["Lambda-Runtime-Trace-Id"] = v[5:6:6]
	h["Lambda-Runtime-Client-Context"] = v[6:7:7]
	h["Lambda-Runtime-Cognito-Identity"] = v[7:8:8]
	if _, err := w.Write(x.payload); err != nil {
		// Part of the event may have arrived: only the deadline or the exit of
		// the process can end it now.
		a.cfg.Log.DebugContext(r.Context(), "event could not be written", "environment", string(a.cfg.Environment), "request_id", x.RequestID, "err", err)
	}
}

// response takes a function's answer.
func (a *API) response(id string, w http.ResponseWriter, r *http.Request) {
	x := a.claim(id)
	if x == nil {
		fail(w, http.StatusBadRequest, "InvalidRequestID", "Invalid request ID")
		return
	}
	if r.Header.Get(headerResponseMode) != "" && !streams(r) {
		a.finish(x, failure("Runtime.InvalidResponseModeHeader", "Invalid function response mode"))
		fail(w, http.StatusBadRequest, "InvalidFunctionResponseMode", "Invalid function response mode")
		return
	}
	if wantsStream(x, r) {
		a.streamResponse(x, w, r)
		return
	}
	if streams(r) { // as slowly as the function makes it
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	}
	body, release, err := a.receive(x, w, r, MaxResponse)
	switch {
	case errors.Is(err, errTooLate), errors.Is(err, errTooLarge) && a.late(x):
		a.finish(x, failure("Sandbox.Timedout", "")) // its caller has been told
		accepted(w)
	case errors.Is(err, errTooLarge):
		message := fmt.Sprintf("Response payload size exceeded maximum allowed payload size (%d bytes).", MaxResponse)
		a.finish(x, failure("Function.ResponseSizeTooLarge", message))
		tooLarge(w, MaxResponse)
	case err != nil:
		a.finish(x, truncated())
		fail(w, http.StatusBadRequest, "TruncatedHTTPRequest", "HTTP request detected as truncated")
	default:
		a.finish(x, outcome(r, body, release))
		accepted(w)
	}
}

// outcome is a complete answer, or the error that ended it midway.
func outcome(r *http.Request, body []byte, release func()) agent.Outcome {
	if out, ok := trailerError(r); ok {
		if release != nil {
			release() // of the answer nothing is kept
		}
		return out
	}
	return agent.Outcome{ContentType: contentType(r), Payload: body, Release: release}
}

// contentType is that of an answer.
func contentType(r *http.Request) string {
	t := r.Header.Get("Content-Type")
	if len(t) > maxContentType || !utf8.ValidString(t) {
		return contentTypeJSON
	}
	return t
}

// functionError takes a function's error.
func (a *API) functionError(id string, w http.ResponseWriter, r *http.Request) {
	x := a.claim(id)
	if x == nil {
		x = a.interrupt(id)
	}
	if x == nil {
		fail(w, http.StatusBadRequest, "InvalidRequestID", "Invalid request ID")
		return
	}
	errorType := knownType(r.Header.Get(headerErrorType))
	body, release, err := a.receive(x, w, r, maxError)
	switch {
	case errors.Is(err, errTooLate), errors.Is(err, errTooLarge) && a.late(x):
		a.finish(x, failure(errorType, "")) // its caller has been told
		accepted(w)
	case errors.Is(err, errTooLarge):
		a.finish(x, failure(errorType, fmt.Sprintf("error document exceeded %d bytes", maxError)))
		tooLarge(w, maxError)
	case err != nil:
		a.finish(x, failure("Runtime.TruncatedResponse", "Error document ended before it was complete"))
		fail(w, http.StatusBadRequest, "TruncatedHTTPRequest", "HTTP request detected as truncated")
	case len(body) == 0:
		a.finish(x, failure(errorType, ""))
		accepted(w)
	default:
		out := failed(errorType, body)
		out.Release = release
		a.finish(x, out)
		accepted(w)
	}
}

// initFailed takes the report of a failed initialisation. Every worker of a
// runtime sends one; the first counts. A few are read at a time: they are large,
// and nothing else bounds how many there are.
func (a *API) initFailed(w http.ResponseWriter, r *http.Request) {
	select {
	case a.reports <- struct{}{}:
		defer func() { <-a.reports }()
	case <-r.Context().Done():
		return
	}
	body, err := read(r, maxError)
	switch {
	case errors.Is(err, errTooLarge):
		tooLarge(w, maxError)
		return
	case err != nil:
		fail(w, http.StatusBadRequest, "TruncatedHTTPRequest", "HTTP request detected as truncated")
		return
	}
	if !a.recordInitError(parseInitError(r.Header.Get(headerErrorType), body)) {
		fail(w, http.StatusForbidden, "InvalidStateTransition",
			"State transition to InitError failed for runtime. Error: State transition is not allowed")
		return
	}
	accepted(w)
}

func (a *API) recordInitError(e InitError) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.hasFailed || a.isReady.Load() {
		return false
	}
	a.initError, a.hasFailed = e, true
	close(a.failed)
	return true
}

func parseInitError(headerType string, body []byte) InitError {
	var doc struct {
		Type    string `json:"errorType"`
		Message string `json:"errorMessage"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		doc.Message = string(body)
	}
	if doc.Type == "" {
		doc.Type = knownType(headerType)
	}
	const enough = 2 << 10
	doc.Type = strings.ToValidUTF8(doc.Type[:min(len(doc.Type), 128)], "\uFFFD")
	doc.Message = strings.ToValidUTF8(doc.Message[:min(len(doc.Message), enough)], "\uFFFD")
	return InitError{Type: doc.Type, Message: doc.Message}
}

// knownType keeps an error type only if it has the form AWS accepts.
func knownType(t string) string {
	area, name, ok := strings.Cut(t, ".")
	if !ok || area != "Runtime" && area != "Function" {
		area, name = "Runtime", "Unknown"
	}
	if len(name) < 2 || len(name) > 100 || name[0] < 'A' || name[0] > 'Z' || strings.ContainsFunc(name, notLetter) {
		name = "Unknown"
	}
	return area + "." + name
}

func notLetter(c rune) bool { return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') }

// read reads a whole body of at most limit bytes. What is too long is read to
// its end, within reason, so that the client gets to see the answer.
func read(r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		_, _ = io.CopyN(io.Discard, r.Body, 4*limit)
		return nil, errTooLarge
	}
	if r.ContentLength >= 0 {
		body := make([]byte, r.ContentLength)
		_, err := io.ReadFull(r.Body, body)
		return body, err
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > limit {
		_, _ = io.CopyN(io.Discard, r.Body, 4*limit)
		return nil, errTooLarge
	}
	return body, nil
}

// failure is the outcome of an error that has no document.
func failure(errorType, message string) agent.Outcome {
	return failed(errorType, document(errorType, message))
}

// failed is the outcome of an error.
func failed(errorType string, document []byte) agent.Outcome {
	return agent.Outcome{FunctionError: Unhandled, ErrorType: errorType, ContentType: contentTypeJSON, Payload: document}
}

func truncated() agent.Outcome {
	return failure("Runtime.TruncatedResponse", "Response ended before it was complete")
}

func accepted(w http.ResponseWriter) {
	h := w.Header()
	h["Content-Type"] = []string{contentTypeJSON}
	w.WriteHeader(http.StatusAccepted)
	_, _ = io.WriteString(w, statusOK)
}

func tooLarge(w http.ResponseWriter, limit int) {
	fail(w, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge",
		fmt.Sprintf("Exceeded maximum allowed payload size (%d bytes).", limit))
}

// fail answers the way the Runtime API does.
func fail(w http.ResponseWriter, status int, errorType, message string) {
	w.Header().Set("Content-Type", contentTypeJSON)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct {
		Message string `json:"errorMessage"`
		Type    string `json:"errorType"`
	}{message, errorType})
}
