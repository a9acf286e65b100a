package lambdaapi

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"runtime/debug"
	"slices"
	"strings"

	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/traits"
	"github.com/containerd/errdefs"
	"github.com/google/uuid"
)

// Bounds of request bodies. AWS's own: 50 MiB of archive in base64 for code.
const (
	maxCodeRequest = 69905067
	maxRequest     = 1 << 20
)

// handler answers one request, or fails before it wrote anything.
type handler func(w http.ResponseWriter, r *http.Request, requestID string) error

// operation is a row of the table of operations. handle is nil for those that
// are not served.
type operation struct {
	schema *smithy.Schema
	handle handler
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

// serve is a row for an operation that reads an I and answers an O, or another
// type with the members of output.
func serve[I, O any](op, input, output *smithy.Schema, fn func(context.Context, *I) (*O, error)) operation {
	status := http.StatusOK
	if t, ok := smithy.SchemaTrait[*traits.HTTP](op); ok {
		status = t.Code
	}
	name := op.ID().Name
	return operation{schema: op, handle: func(w http.ResponseWriter, r *http.Request, _ string) error {
		body, err := readBody(w, r, name)
		if err != nil {
			return err
		}
		in := new(I)
		if err := decode(r, body, input, in); err != nil {
			return err
		}
		out, err := fn(r.Context(), in)
		if err != nil {
			return err
		}
		text, asked, err := encode(w.Header(), output, out)
		if err != nil {
			return err
		}
		write(w, cmp.Or(asked, status), "application/json", text)
		return nil
	}}
}

// upload makes an operation whose requests carry code wait for its turn.
func (s *Server) upload(op operation) operation {
	next := op.handle
	op.handle = func(w http.ResponseWriter, r *http.Request, requestID string) error {
		select {
		case s.uploads <- struct{}{}:
			defer func() { <-s.uploads }()
			return next(w, r, requestID)
		case <-r.Context().Done():
			return fmt.Errorf("waiting to upload: %w", context.Cause(r.Context()))
		}
	}
	return op
}

func readBody(w http.ResponseWriter, r *http.Request, operation string) ([]byte, error) {
	limit := int64(maxRequest)
	if operation == "CreateFunction" || operation == "UpdateFunctionCode" {
		limit = maxCodeRequest
	}
	if r.ContentLength > limit {
		discard(r, 2*limit)
		return nil, tooLarge("RequestEntityTooLargeException", limit, operation)
	}
	var b bytes.Buffer
	if r.ContentLength > 0 {
		b.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	if _, err := b.ReadFrom(http.MaxBytesReader(w, r.Body, limit)); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, tooLarge("RequestEntityTooLargeException", limit, operation)
		}
		return nil, canceled(r.Context(), err)
	}
	return b.Bytes(), nil
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
		if query == "" || r.URL.Query().Get(name) == value {
			return &ops[i]
		}
	}
	return nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
	if op.handle == nil {
		s.render(w, r, requestID, &exception{
			name: "NotImplementedException", status: http.StatusNotImplemented,
			message: "The operation " + op.name() + " is not available in this service.",
		})
		return
	}
	if err := op.handle(w, r, requestID); err != nil {
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

// discard reads what is left of a body that is refused, so that a client that
// sends before it reads gets the answer; at most limit bytes.
func discard(r *http.Request, limit int64) {
	if r.Header.Get("Expect") == "" {
		_, _ = io.CopyN(io.Discard, r.Body, limit)
	}
}
