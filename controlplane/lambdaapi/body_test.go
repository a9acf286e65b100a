package lambdaapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
)

// router is an Invoker that looks at the budget.
type router func(req controlplane.InvokeRequest) (controlplane.InvokeResult, error)

func (r router) Invoke(_ context.Context, req controlplane.InvokeRequest) (controlplane.InvokeResult, error) {
	return r(req)
}

// broken is a body that ends in an error.
type broken struct{ io.Reader }

func (b broken) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func TestEveryRequestGivesBackWhatItTookOfTheBudget(t *testing.T) {
	t.Parallel()
	s := bare()
	s.cfg.Invoker = router(func(req controlplane.InvokeRequest) (controlplane.InvokeResult, error) {
		switch req.Function {
		case "panics":
			panic("oops")
		case "fails":
			return controlplane.InvokeResult{}, errdefs.ErrInternal
		}
		return controlplane.InvokeResult{Payload: make([]byte, 1000)}, nil
	})
	const functions, chunked = "/2015-03-31/functions", -1
	for name, c := range map[string]struct {
		path   string
		body   io.Reader
		length int64
		status int
	}{
		"an invoke":             {functions + "/f/invocations", strings.NewReader("{}"), 2, 200},
		"in chunks":             {functions + "/f/invocations", strings.NewReader("{}"), chunked, 200},
		"without a body":        {functions + "/f/invocations", http.NoBody, 0, 200},
		"that fails":            {functions + "/fails/invocations", strings.NewReader("{}"), 2, 500},
		"that panics":           {functions + "/panics/invocations", strings.NewReader("{}"), 2, 500},
		"of no JSON":            {functions + "/f/invocations", strings.NewReader("{"), 1, 400},
		"cut short":             {functions + "/f/invocations", broken{strings.NewReader("{")}, 5, 400},
		"cut short, in chunks":  {functions + "/f/invocations", broken{strings.NewReader("{")}, chunked, 400},
		"too large":             {functions + "/f/invocations", strings.NewReader("{}"), maxPayload + 1, 413},
		"too large, in chunks":  {functions + "/f/invocations", io.LimitReader(spaces{}, maxPayload+1), chunked, 413},
		"a function of no JSON": {functions, strings.NewReader("{"), 1, 400},
		"a function, cut":       {functions, broken{strings.NewReader("{")}, maxCodeRequest, 400},
		"a provider, too large": {"/2025-11-30/capacity-providers", io.LimitReader(spaces{}, maxRequest+1), chunked, 413},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, c.path, c.body)
			r.ContentLength = c.length
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			if w.Code != c.status {
				t.Errorf("got %d %s, want %d", w.Code, w.Body, c.status)
			}
			if used := s.bodies.used.Load(); used != 0 {
				t.Errorf("%d bytes are still taken", used)
			}
		})
	}
}

type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestWhatABodyTakesOfTheBudget(t *testing.T) {
	t.Parallel()
	s := bare()
	for name, c := range map[string]struct {
		length, during int64
	}{
		"twice a payload":              {100_000, 200_000},
		"what came of one unannounced": {-1, 200_000},
	} {
		s.cfg.Invoker = router(func(req controlplane.InvokeRequest) (controlplane.InvokeResult, error) {
			if used := s.bodies.used.Load(); used != c.during || len(req.Payload) != 100_000 {
				t.Errorf("%s: %d bytes are taken for a payload of %d, want %d", name, used, len(req.Payload), c.during)
			}
			return controlplane.InvokeResult{}, nil
		})
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/2015-03-31/functions/f/invocations",
			strings.NewReader(`"`+strings.Repeat("x", 99_998)+`"`))
		r.ContentLength = c.length
		s.ServeHTTP(httptest.NewRecorder(), r)
	}
	if !s.bodies.take(LeastBodyMemory) || s.bodies.take(1) {
		t.Error("the budget is not what was configured")
	}
}
