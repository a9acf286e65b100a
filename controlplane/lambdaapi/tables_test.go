package lambdaapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/schemas"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/traits"
	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
)

func bare() *Server {
	return newServer(Config{
		AccountID: "123456789012", Region: "us-east-1", BodyMemory: LeastBodyMemory, Logger: slog.New(slog.DiscardHandler),
	})
}

func TestEveryOperationOfTheSDKIsInTheTableOnce(t *testing.T) {
	t.Parallel()
	var have, want []string
	for _, op := range bare().operations() {
		have = append(have, op.name())
	}
	for m := range reflect.TypeFor[*lambda.Client]().Methods() {
		if m.Type.NumIn() == 4 && strings.HasSuffix(m.Type.In(2).String(), "."+m.Name+"Input") {
			want = append(want, m.Name)
		}
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) || len(want) < 85 {
		t.Errorf("%d operations in the table, %d in the SDK\n%v\n%v", len(have), len(want), have, want)
	}
}

func TestEveryOperationThatIsNotServedIsNamed(t *testing.T) {
	t.Parallel()
	s := bare()
	label := regexp.MustCompile(`\{[^}]+\}`)
	for _, op := range s.operations() {
		if op.handle != nil {
			continue
		}
		method, pattern, query := op.http()
		r := httptest.NewRequestWithContext(t.Context(), method, label.ReplaceAllString(pattern, "x")+"?"+query, nil)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != http.StatusNotImplemented || !strings.Contains(w.Body.String(), "operation "+op.name()+" is") {
			t.Errorf("%s: %s %s answered %d %s", op.name(), method, r.URL, w.Code, w.Body)
		}
	}
}

func TestAStateSaysWhetherAnOperationIsServed(t *testing.T) {
	t.Parallel()
	for _, op := range bare().operations() {
		if served := op.state == Works || op.state == StoredOnly; served != (op.handle != nil) {
			t.Errorf("%s has the state %q, and served is %t", op.name(), op.state, op.handle != nil)
		}
		if op.state == "" || op.handle == nil && op.note == "" {
			t.Errorf("%s has the state %q and the note %q", op.name(), op.state, op.note)
		}
	}
}

func TestEveryClassHasARow(t *testing.T) {
	t.Parallel()
	for class, want := range map[error]struct {
		name   string
		status int
	}{
		errdefs.ErrInvalidArgument:    {"InvalidParameterValueException", 400},
		errdefs.ErrNotFound:           {"ResourceNotFoundException", 404},
		errdefs.ErrAlreadyExists:      {"ResourceConflictException", 409},
		errdefs.ErrConflict:           {"ResourceConflictException", 409},
		errdefs.ErrFailedPrecondition: {"ResourceConflictException", 409},
		errdefs.ErrResourceExhausted:  {"TooManyRequestsException", 429},
		errdefs.ErrUnavailable:        {"ServiceException", 500},
		errdefs.ErrUnauthenticated:    {"UnrecognizedClientException", 403},
		errdefs.ErrPermissionDenied:   {"AccessDeniedException", 403},
		errdefs.ErrNotImplemented:     {"NotImplementedException", 501},
		errdefs.ErrInternal:           {"ServiceException", 500},
		context.Canceled:              {"ServiceException", 500},
		context.DeadlineExceeded:      {"ServiceException", 500},
	} {
		e := asException(fmt.Errorf("internal text: %w", class))
		if e.name != want.name || e.status != want.status || strings.Contains(e.message, "internal text") {
			t.Errorf("%v became %d %s: %s; want %d %s", class, e.status, e.name, e.message, want.status, want.name)
		}
		rows := 0
		for _, c := range classes() {
			if c.is(class) {
				rows++
			}
		}
		if rows != 2 {
			t.Errorf("%v fits %d rows, want one of its own and the last", class, rows)
		}
	}
	if e := asException(errors.New("no class")); e.name != "ServiceException" {
		t.Errorf("an error without class became %s", e.name)
	}
}

func TestTypedErrorsOfTheRouterKeepTheirClassToo(t *testing.T) {
	t.Parallel()
	for err, is := range map[error]func(error) bool{
		&controlplane.FunctionNotFoundError{}:   errdefs.IsNotFound,
		&controlplane.NoPublishedVersionError{}: errdefs.IsFailedPrecondition,
		&controlplane.LatestNotInvocableError{}: errdefs.IsInvalidArgument,
		&controlplane.VersionStateError{}:       errdefs.IsFailedPrecondition,
		&controlplane.ThrottledError{}:          errdefs.IsResourceExhausted,
		&controlplane.LostError{}:               errdefs.IsUnavailable,
	} {
		wrapped := fmt.Errorf("routing: %w", err)
		if !is(wrapped) || invokeException(wrapped) == nil {
			t.Errorf("%T has not its class, or no exception", err)
		}
	}
}

func TestExceptionsHaveTheStatusOfTheModel(t *testing.T) {
	t.Parallel()
	seen := 0
	check := func(name string, status int) {
		entry, ok := lambda.TypeRegistry.Entries["com.amazonaws.lambda#"+name]
		if !ok {
			return // common to all services
		}
		seen++
		want, _ := smithy.SchemaTrait[*traits.HTTPError](entry.Schema)
		if want == nil || want.Code != status {
			t.Errorf("%s has status %d, in the model %+v", name, status, want)
		}
	}
	for _, c := range classes() {
		check(c.name, c.status)
	}
	for _, err := range []error{
		invalidParameter(""), notFound(""), conflict(""), tooLarge("RequestTooLargeException", 1, ""),
		&controlplane.NoPublishedVersionError{}, &controlplane.ThrottledError{}, &controlplane.LostError{},
	} {
		e := asException(err)
		check(e.name, e.status)
	}
	if seen < 10 {
		t.Errorf("only %d exceptions are in the model", seen)
	}
}

func TestAPanicCostsItsRequestOnly(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s := bare()
	s.cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	op := operation{schema: schemas.Invoke, handle: func(http.ResponseWriter, *http.Request, string) error { panic("on purpose") }}
	w := httptest.NewRecorder()
	s.answer(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil), &op)
	if w.Code != 500 || strings.Contains(w.Body.String(), "on purpose") || !strings.Contains(log.String(), "on purpose") {
		t.Errorf("answered %d %s, logged %s", w.Code, w.Body, log.String())
	}
}

func FuzzFunctionName(f *testing.F) {
	for _, seed := range []string{
		"f", "f:1", "f:$LATEST.PUBLISHED", "123456789012:function:f", "arn:aws:lambda:us-east-1:123456789012:function:f:live",
		"function:f", "us-east-1:f", "arn:aws:lambda:", "a:b:c", "f:", ":", "ä", "f\n",
	} {
		f.Add(seed, "")
		f.Add(seed, "1")
	}
	s := bare()
	f.Fuzz(func(t *testing.T, name, qualifier string) {
		var given *string
		if qualifier != "" {
			given = &qualifier
		}
		ref, err := s.function(&name, given, 256)
		if err != nil {
			if e := asException(err); e.status != 400 && e.status != 404 {
				t.Errorf("%q %q: %d %s", name, qualifier, e.status, e.message)
			}
			return
		}
		if !regexp.MustCompile(`^[a-zA-Z0-9-_]+$`).MatchString(string(ref.Name)) ||
			!regexp.MustCompile(`^[a-zA-Z0-9-_$.]*$`).MatchString(string(ref.Qualifier)) {
			t.Errorf("%q %q was read as %q %q", name, qualifier, ref.Name, ref.Qualifier)
		}
		if given != nil && string(ref.Qualifier) != qualifier {
			t.Errorf("%q %q has qualifier %q", name, qualifier, ref.Qualifier)
		}
		if q := strings.TrimPrefix(string(ref.Qualifier), "$LATEST"); q == "" || !strings.ContainsAny(q, "$") { // else only beside the name
			again(t, s, ref)
		}
	})
}

// again reads the ARN of ref.
func again(t *testing.T, s *Server, ref reference) {
	t.Helper()
	arn := s.functionARN(ref.Name, ref.Qualifier)
	if !functionNamePattern.MatchString(arn) {
		return
	}
	if got, err := s.function(&arn, nil, 10000); err != nil || got != ref {
		t.Errorf("%+v has ARN %s, which was read as %+v: %v", ref, arn, got, err)
	}
}

func FuzzAPIJSON(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, `[]`, `{"FunctionName":"f","Code":{"ZipFile":"UEsF"},"Timeout":3,"Publish":true}`,
		`{"Environment":{"Variables":{"A":"b"}},"Layers":["x"],"Tags":{"k":null}}`, `{"Timeout":1e999}`, `{"Role":1}`,
		`{"CapacityProviderConfig":{"LambdaManagedInstancesCapacityProviderConfig":{"ExecutionEnvironmentMemoryGiBPerVCpu":2.5}}}`,
		`{"VpcConfig":{"SubnetIds":[1]}}`, `{"Code":[]}`, `{"Code":{"ZipFile":{}}}`, ` {"Role":"` + "\xff" + `"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/2015-03-31/functions", nil)
		in := new(lambda.CreateFunctionInput)
		if err := decode(r, body, schemas.CreateFunctionRequest, in); err != nil {
			if e := asException(err); e.name != "SerializationException" {
				t.Errorf("%q: %v", body, err)
			}
			return
		}
		text, _, err := encode(http.Header{}, schemas.CreateFunctionRequest, in)
		if err != nil {
			t.Fatalf("%q was read and cannot be written: %v", body, err)
		}
		again := new(lambda.CreateFunctionInput)
		if err := decode(r, text, schemas.CreateFunctionRequest, again); err != nil {
			t.Fatalf("%q was written as %s, which cannot be read: %v", body, text, err)
		}
		second, _, err := encode(http.Header{}, schemas.CreateFunctionRequest, again)
		if err != nil || !bytes.Equal(text, second) {
			t.Errorf("%s was written the second time as %s (%v)", text, second, err)
		}
	})
}
