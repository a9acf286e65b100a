package lambdaapi

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/traits"
	"github.com/containerd/errdefs"
	"github.com/google/uuid"
)

// handler answers one request, or fails before it wrote anything.
type handler func(w http.ResponseWriter, r *http.Request, requestID string) error

// operation is a row of the table of operations. handle is nil for those that
// are not served.
type operation struct {
	schema *smithy.Schema
	state  State
	// note is what differs from AWS, in a few words.
	note   string
	handle handler
	// call is the typed half of handle, if it has one.
	call *call
	// bounds, unless nil, are those of the body, which handle finds read.
	bounds *bounds
}

func (o *operation) name() string { return o.schema.ID().Name }

// http returns the method, the path pattern and the query ("name=value", may be
// empty) that tell the operation from another of the same path.
func (o *operation) http() (method, pattern, query string) {
	t, ok := smithy.SchemaTrait[*traits.HTTP](o.schema)
	if !ok {
		return "", "", ""
	}
	pattern, query, _ = strings.Cut(t.URI, "?")
	return t.Method, strings.TrimSuffix(pattern, "/"), query
}

// call is what the codec carries for an operation: a request of the input's
// schema to run, and what it answers, of the output's; nil means nothing.
type call struct {
	input, output     *smithy.Schema
	request, response func() any
	run               func(ctx context.Context, in any) (out any, err error)
}

// serve is a row for an operation that reads an I and answers an O, or another
// type with the members of output.
func serve[I, O any](op, input, output *smithy.Schema, fn func(context.Context, *I) (*O, error)) operation {
	c := &call{
		input: input, output: output,
		request: func() any { return new(I) }, response: func() any { return new(O) },
		run: func(ctx context.Context, in any) (any, error) {
			return fn(ctx, in.(*I)) //nolint:forcetypeassert // what request returned
		},
	}
	status := http.StatusOK
	if t, ok := smithy.SchemaTrait[*traits.HTTP](op); ok {
		status = t.Code
	}
	handle := func(w http.ResponseWriter, r *http.Request, _ string) error { return c.handle(w, r, status) }
	return operation{schema: op, state: Works, call: c, handle: handle, bounds: &bounds{
		operation: op.ID().Name, limit: maxRequest, weight: weightRequest, exception: "RequestEntityTooLargeException",
	}}
}

func (c *call) handle(w http.ResponseWriter, r *http.Request, status int) error {
	var body []byte
	if read, ok := r.Body.(*readBody); ok {
		body = read.content
	}
	in := c.request()
	if err := decode(r, body, c.input, in); err != nil {
		return err
	}
	out, err := c.run(r.Context(), in)
	if err != nil {
		return err
	}
	if c.output == nil {
		write(w, status, "application/json", nil)
		return nil
	}
	text, asked, err := encode(w.Header(), c.output, out)
	if err != nil {
		return err
	}
	write(w, cmp.Or(asked, status), "application/json", text)
	return nil
}

// upload is an operation whose requests carry code.
func (*Server) upload(op operation) operation {
	op.bounds.limit = maxCodeRequest
	return op
}

// readBody is a request's body once it was read.
type readBody struct {
	io.ReadCloser // what is left: nothing

	content []byte
}

// handleRead reads the body within its bounds, then handles.
func (s *Server) handleRead(w http.ResponseWriter, r *http.Request, requestID string, op *operation) error {
	if op.bounds == nil {
		return op.handle(w, r, requestID)
	}
	content, held, err := s.body(w, r, op.bounds)
	if err != nil {
		return err
	}
	defer s.bodies.give(held)
	r.Body = &readBody{r.Body, content}
	return op.handle(w, r, requestID)
}

// route registers the operations. Two that share method and path differ by
// query, the one that names none is the rest.
func (s *Server) route(operations []operation) {
	type key struct{ method, pattern string }
	at := map[key][]operation{}
	for _, op := range operations {
		method, pattern, _ := op.http()
		k := key{method, pattern}
		at[k] = append(at[k], op)
	}
	for k, ops := range at {
		slices.SortFunc(ops, func(a, b operation) int {
			_, _, qa := a.http()
			_, _, qb := b.http()
			return len(qb) - len(qa)
		})
		s.mux.HandleFunc(k.method+" "+k.pattern, func(w http.ResponseWriter, r *http.Request) {
			s.answer(w, r, choose(ops, r))
		})
	}
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { s.answer(w, r, nil) })
}

func choose(ops []operation, r *http.Request) *operation {
	for i := range ops {
		_, _, query := ops[i].http()
		name, value, _ := strings.Cut(query, "=")
		if query == "" || r.URL.RawQuery != "" && r.URL.Query().Get(name) == value {
			return &ops[i]
		}
	}
	return nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	handled(r.Context())
	if r.ContentLength != 0 {
		setReadDeadline(w, time.Now().Add(pieceTime)) // also when nobody reads the body
	}
	if p := r.URL.Path; len(p) > 1 && strings.HasSuffix(r.URL.EscapedPath(), "/") { // older SDKs send one
		u := *r.URL
		u.Path, u.RawPath = strings.TrimSuffix(p, "/"), strings.TrimSuffix(u.RawPath, "/")
		r2 := *r
		r2.URL = &u
		r = &r2
	}
	if !strings.HasPrefix(r.URL.Path, "/") || path.Clean(r.URL.Path) != r.URL.Path || r.Method == http.MethodConnect {
		s.answer(w, r, nil) // ServeMux would redirect
		return
	}
	s.mux.ServeHTTP(w, r)
}

// operationKey is where a request's context has the operation's name.
type operationKey struct{}

func operationOf(r *http.Request) string {
	name, _ := r.Context().Value(operationKey{}).(string)
	return name
}

// answer runs one request: every response has its id, every failure is
// rendered, a panic is a bug that costs this request only.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, op *operation) {
	requestID := uuid.NewString()
	w.Header().Set("X-Amzn-Requestid", requestID)
	if op == nil {
		s.render(w, r, requestID, s.missed(r))
		return
	}
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler { //nolint:errorlint // as net/http compares it
				panic(p)
			}
			s.render(w, r, requestID, fmt.Errorf("panic in %s: %v\n%s: %w", op.name(), p, debug.Stack(), errdefs.ErrInternal))
		}
	}()
	err := s.authenticate(w, r)
	switch {
	case err != nil:
	case op.handle == nil:
		err = op.unserved()
	default:
		err = s.handleRead(w, r, requestID, op)
		s.audit(r, requestID, op, err)
	}
	if err != nil {
		r = r.WithContext(context.WithValue(r.Context(), operationKey{}, op.name()))
		s.render(w, r, requestID, err)
	}
}

// missed is the error of a request that is no operation.
func (s *Server) missed(r *http.Request) error {
	if path.Clean(r.URL.Path) == r.URL.Path {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
			probe := http.Request{Method: method, URL: r.URL, Host: r.Host}
			if _, pattern := s.mux.Handler(&probe); pattern != "/" && pattern != "" {
				return &exception{
					name: "UnknownOperationException", status: http.StatusMethodNotAllowed,
					message: "The method " + r.Method + " is not allowed for this path.",
				}
			}
		}
	}
	return &exception{
		name: "UnknownOperationException", status: http.StatusNotFound,
		message: "The request is no operation of the Lambda API.",
	}
}

// messageMember is the member that has an exception's message: the model
// spells it in two ways.
func messageMember(exception string) string {
	if e, ok := lambda.TypeRegistry.Entries["com.amazonaws.lambda#"+exception]; ok && e.Schema.Member("Message") != nil {
		return "Message"
	}
	return "message"
}
