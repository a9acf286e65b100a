package lambdaapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane"
)

const (
	maxPayload       = 6291456 // of a synchronous invoke
	maxClientContext = 3583    // bytes, in base64
	invokeOperation  = "InvokeFunction"
)

// invoke serves Invoke without the codec: everything but the payload is in the
// path, the query and the headers.
func (s *Server) invoke(w http.ResponseWriter, r *http.Request, requestID string) error {
	req, err := s.invokeRequest(r)
	if err != nil {
		return err
	}
	req.RequestID = requestID
	if req.Payload, err = readPayload(w, r); err != nil {
		return err
	}
	if !req.DryRun {
		if err := checkPayload(&req); err != nil {
			return err
		}
	}
	result, err := s.cfg.Invoker.Invoke(r.Context(), req)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("X-Amz-Executed-Version", string(result.Executed))
	if req.DryRun {
		write(w, http.StatusNoContent, "", nil)
		return nil
	}
	if result.FunctionError != "" {
		h.Set("X-Amz-Function-Error", result.FunctionError)
	}
	if req.TraceID != "" {
		h.Set("X-Amzn-Trace-Id", req.TraceID)
	}
	contentType := result.ContentType
	if contentType == "" {
		contentType = "application/json"
	}
	write(w, http.StatusOK, contentType, result.Payload)
	return nil
}

// invokeRequest reads everything but the payload.
func (s *Server) invokeRequest(r *http.Request) (req controlplane.InvokeRequest, err error) {
	name := r.PathValue("FunctionName")
	var qualifier *string
	if r.URL.RawQuery != "" && r.URL.Query().Has("Qualifier") {
		q := r.URL.Query().Get("Qualifier")
		qualifier = &q
	}
	ref, err := s.function(&name, qualifier, 256)
	if err != nil {
		return req, err
	}
	kind, err := invocationType(r.Header)
	if err != nil {
		return req, err
	}
	req = controlplane.InvokeRequest{
		Function: ref.Name, Qualifier: ref.Qualifier, InvokedARN: s.functionARN(ref.Name, ref.Qualifier),
		DryRun: kind == types.InvocationTypeDryRun, ContentType: r.Header.Get("Content-Type"),
		TraceID: r.Header.Get("X-Amzn-Trace-Id"),
	}
	req.ClientContext, err = clientContext(r.Header.Get("X-Amz-Client-Context"))
	return req, err
}

// invocationType checks the headers that say how to invoke.
func invocationType(h http.Header) (types.InvocationType, error) {
	kind, logs := types.InvocationType(h.Get("X-Amz-Invocation-Type")), types.LogType(h.Get("X-Amz-Log-Type"))
	var c constraints
	enum(&c, "invocationType", kind, kind.Values())
	enum(&c, "logType", logs, logs.Values())
	if err := c.err(); err != nil {
		return "", err
	}
	switch {
	case kind == types.InvocationTypeEvent:
		return "", invalidParameter("Asynchronous invocation is not available in this service yet. " +
			"Use the invocation type RequestResponse.")
	case logs == types.LogTypeTail:
		return "", invalidParameter("Tail logs are not supported for functions configured with capacity provider")
	case h.Get("X-Amz-Durable-Execution-Name") != "":
		return "", invalidParameter("Durable executions are not available in this service.")
	case h.Get("X-Amz-Tenant-Id") != "":
		return "", invalidParameter("The invoked function is not enabled with tenancy configuration.")
	}
	return kind, nil
}

// clientContext decodes the X-Amz-Client-Context header.
func clientContext(header string) (string, error) {
	if header == "" {
		return "", nil
	}
	if len(header) > maxClientContext {
		return "", invalidParameter("Client context must be at most %d bytes of base64.", maxClientContext)
	}
	text, err := base64.StdEncoding.DecodeString(header)
	if err != nil || !json.Valid(text) {
		return "", &exception{
			name: "InvalidRequestContentException", status: http.StatusBadRequest,
			message: "Client context must be a valid Base64-encoded JSON object.",
		}
	}
	return string(text), nil
}

// readPayload reads at most what an invoke may have. What says beforehand that
// it is more is refused without being kept.
func readPayload(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	refused := tooLarge("RequestTooLargeException", maxPayload, invokeOperation)
	if r.ContentLength > maxPayload {
		discard(r, 2*maxPayload)
		return nil, refused
	}
	if r.ContentLength >= 0 {
		payload := make([]byte, r.ContentLength)
		if _, err := io.ReadFull(r.Body, payload); err != nil {
			return nil, cut(r.Context(), err)
		}
		return payload, nil
	}
	payload, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPayload))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		discard(r, maxPayload)
		return nil, refused
	}
	if err != nil {
		return nil, cut(r.Context(), err)
	}
	return payload, nil
}

// cut is the error of a payload that ended early.
func cut(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return canceled(ctx, err)
	}
	return &exception{
		name: "InvalidRequestContentException", status: http.StatusBadRequest,
		message: "The request body could not be read to its end.",
	}
}

// checkPayload refuses what is no JSON, as AWS does; nothing is an empty object.
func checkPayload(req *controlplane.InvokeRequest) error {
	if len(req.Payload) == 0 {
		req.Payload = []byte("{}")
		return nil
	}
	if !utf8.Valid(req.Payload) || !json.Valid(req.Payload) { // json takes any bytes in a string
		return &exception{
			name: "InvalidRequestContentException", status: http.StatusBadRequest,
			message: "Could not parse request body into json: the payload is not valid JSON",
		}
	}
	return nil
}
