package lambdaapi

import (
	"encoding/base64"
	"net/http"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane"
)

const (
	maxClientContext = 3583 // bytes, in base64
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
	payload, held, err := s.body(w, r, &s.payload)
	if err != nil {
		return err
	}
	defer func() { s.bodies.give(held) }()
	req.Payload = payload
	if !req.DryRun {
		if err := checkPayload(&req); err != nil {
			return notJSON(r, err)
		}
	}
	result, err := s.cfg.Invoker.Invoke(r.Context(), req)
	if err != nil {
		return err
	}
	if result.Release != nil {
		defer result.Release()
	}
	// The answer is here already and is not refused, but others are while this
	// caller takes its time to read it.
	s.bodies.give(-int64(len(result.Payload)))
	held += int64(len(result.Payload))
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
	query, err := queryOf(r)
	if err != nil {
		return req, err
	}
	var qualifier *string
	if given := query["Qualifier"]; len(given) > 0 {
		if err := once(given); err != nil {
			return req, err
		}
		qualifier = &given[0]
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
	if !utf8.ValidString(req.ContentType) || !utf8.ValidString(req.TraceID) {
		return req, badRequest("The headers Content-Type and X-Amzn-Trace-Id of the request must be text.")
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
	if err != nil || !wellFormed(text) {
		return "", &exception{
			name: "InvalidRequestContentException", status: http.StatusBadRequest,
			message: "Client context must be a valid Base64-encoded JSON object.",
		}
	}
	return string(text), nil
}

// checkPayload refuses what is no JSON, as AWS does; nothing is an empty object.
func checkPayload(req *controlplane.InvokeRequest) error {
	if len(req.Payload) == 0 {
		req.Payload = []byte("{}")
		return nil
	}
	if !wellFormed(req.Payload) {
		return &exception{
			name: "InvalidRequestContentException", status: http.StatusBadRequest,
			message: "Could not parse request body into json: the payload is not valid JSON",
		}
	}
	return nil
}
