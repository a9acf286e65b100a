package lambdaapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/sigv4"
)

// exception is an error as AWS puts it.
type exception struct {
	name    string
	status  int
	message string
	// reason and retryAfter are of TooManyRequestsException only.
	reason     string
	retryAfter time.Duration
}

func (e *exception) Error() string { return e.name + ": " + e.message }

func invalidParameter(format string, args ...any) error {
	return &exception{name: "InvalidParameterValueException", status: 400, message: fmt.Sprintf(format, args...)}
}

func notFound(format string, args ...any) error {
	return &exception{name: "ResourceNotFoundException", status: 404, message: fmt.Sprintf(format, args...)}
}

func conflict(format string, args ...any) error {
	return &exception{name: "ResourceConflictException", status: 409, message: fmt.Sprintf(format, args...)}
}

func malformed(format string, args ...any) error {
	return &exception{name: "SerializationException", status: 400, message: fmt.Sprintf(format, args...)}
}

// badRequest is the error of a request that is wrong as HTTP, whatever it asks.
func badRequest(format string, args ...any) error {
	return &exception{name: "MalformedHttpRequestException", status: 400, message: fmt.Sprintf(format, args...)}
}

func tooLarge(name string, limit int64, operation string) error {
	return &exception{name: name, status: 413, message: fmt.Sprintf(
		"Request must be smaller than %d bytes for the %s operation", limit, operation)}
}

// class is a row of the table from classes of containerd/errdefs to exceptions.
// message is all the client is told: what the error says is for the log.
type class struct {
	is      func(error) bool
	name    string
	status  int
	message string
}

const internalMessage = "The service encountered an internal error. Its log has more under the request id."

// classes is the table, the first row that fits counts.
func classes() []class {
	return []class{
		{errdefs.IsInvalidArgument, "InvalidParameterValueException", 400, "A parameter of the request is not valid."},
		{errdefs.IsNotFound, "ResourceNotFoundException", 404, "The resource you requested does not exist."},
		{errdefs.IsAlreadyExists, "ResourceConflictException", 409, "The resource already exists."},
		{errdefs.IsConflict, "ResourceConflictException", 409, "The resource was changed meanwhile. Try again."},
		{errdefs.IsFailedPrecondition, "ResourceConflictException", 409, "The operation cannot be performed at this time."},
		{errdefs.IsResourceExhausted, "TooManyRequestsException", 429, "Rate Exceeded."},
		{errdefs.IsUnauthorized, "UnrecognizedClientException", 403, "The security token included in the request is invalid."},
		{errdefs.IsPermissionDenied, "AccessDeniedException", 403, "You are not authorized to perform this operation."},
		{errdefs.IsNotImplemented, "NotImplementedException", 501, "This operation is not available."},
		{errdefs.IsUnavailable, "ServiceException", 500, internalMessage},
		{errdefs.IsCanceled, "ServiceException", 500, "The request was given up."},
		{errdefs.IsDeadlineExceeded, "ServiceException", 500, "The request took too long."},
		{errdefs.IsInternal, "ServiceException", 500, internalMessage},
		{func(error) bool { return true }, "ServiceException", 500, internalMessage},
	}
}

// asException returns err as AWS would put it.
func asException(err error) *exception {
	if e, ok := errors.AsType[*exception](err); ok {
		return e
	}
	if e := invokeException(err); e != nil {
		return e
	}
	if e, ok := errors.AsType[*sigv4.Error](err); ok {
		return &exception{name: e.Code, status: http.StatusForbidden, message: e.Message}
	}
	for _, c := range classes() {
		if c.is(err) {
			return &exception{name: c.name, status: c.status, message: c.message}
		}
	}
	return nil // the last row fits all
}

// invokeException returns the exception of an Invoker's typed error, or nil.
func invokeException(err error) *exception {
	if e, ok := errors.AsType[*controlplane.FunctionNotFoundError](err); ok {
		return &exception{name: "ResourceNotFoundException", status: 404, message: "Function not found: " + e.ARN}
	}
	if _, ok := errors.AsType[*controlplane.NoPublishedVersionError](err); ok {
		return &exception{name: "NoPublishedVersionException", status: 400, message: "The function can't be invoked " +
			"because no published version exists. For functions with capacity provider configuration, either publish a " +
			"version to $LATEST.PUBLISHED, or specify a published version qualifier."}
	}
	if _, ok := errors.AsType[*controlplane.LatestNotInvocableError](err); ok {
		return &exception{name: "InvalidParameterValueException", status: 400, message: "Functions configured with " +
			"capacity provider configuration can't be invoked with $LATEST qualifier. To invoke this function, specify a " +
			"published version qualifier or $LATEST.PUBLISHED."}
	}
	if e, ok := errors.AsType[*controlplane.VersionStateError](err); ok {
		return &exception{name: "ResourceConflictException", status: 409, message: stateMessage(e)}
	}
	if e, ok := errors.AsType[*controlplane.ThrottledError](err); ok {
		return &exception{
			name: "TooManyRequestsException", status: 429, message: throttleMessage(e),
			reason: string(e.Reason), retryAfter: max(e.RetryAfter, time.Second),
		}
	}
	if _, ok := errors.AsType[*controlplane.LostError](err); ok {
		return &exception{name: "ServiceException", status: 500, message: "The connection to the execution environment " +
			"was lost during the invoke. The function may have run."}
	}
	return nil
}

func stateMessage(e *controlplane.VersionStateError) string {
	m := fmt.Sprintf("The operation cannot be performed at this time. The function is currently in the following state: '%s'",
		e.State)
	if e.Reason != "" {
		m += ": " + e.Reason
	}
	return m
}

func throttleMessage(e *controlplane.ThrottledError) string {
	if e.NoneReady {
		return "Rate Exceeded: no execution environment is ready."
	}
	switch e.Reason {
	case controlplane.ThrottleConcurrency:
		return "Rate Exceeded: every execution environment is at its concurrency limit."
	case controlplane.ThrottleCPU, controlplane.ThrottleMemory, controlplane.ThrottleDisk:
		return fmt.Sprintf("Rate Exceeded: the execution environments are short of %s.", e.Reason)
	case controlplane.ThrottleReserved: // AWS says no more
	}
	return "Rate Exceeded."
}

// logFailure notes what is our fault, unless the client left.
func (s *Server) logFailure(r *http.Request, requestID, operation string, err error) {
	if r.Context().Err() == nil {
		s.cfg.Logger.ErrorContext(r.Context(), "request failed", append(caller(r), "request_id", requestID, "operation", operation, "err", err)...)
	}
}

// render answers with err, under the spelling of "message" that the model has
// for the exception. What is our fault goes to the log: it is answered, not
// returned.
func (s *Server) render(w http.ResponseWriter, r *http.Request, requestID string, err error) {
	e := asException(err)
	body := map[string]string{"Type": "User"}
	if e.status >= http.StatusInternalServerError {
		body["Type"] = "Service"
	}
	if e.status == http.StatusInternalServerError {
		s.logFailure(r, requestID, operationOf(r), err)
	}
	body[messageMember(e.name)] = e.message
	if e.reason != "" {
		body["Reason"] = e.reason
	}
	h := w.Header()
	if e.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.retryAfter.Seconds()))))
	}
	h.Set("X-Amzn-Errortype", e.name)
	if r.Method == http.MethodHead {
		w.WriteHeader(e.status)
		return
	}
	text, jsonErr := json.Marshal(body)
	if jsonErr != nil {
		s.cfg.Logger.ErrorContext(r.Context(), "error could not be written", "request_id", requestID, "err", jsonErr)
	}
	write(w, e.status, "application/json", text)
}
