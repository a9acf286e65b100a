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
	req, held, err := s.invocation(w, r, requestID, &s.payload)
	if err != nil {
		return err
	}
	defer func() { s.bodies.give(held) }()
	result, err := s.invoked(r, &req, invokeOperation)
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
	if req.DryRun {
		dryRun(w, result)
		return nil
	}
	h := w.Header()
	h.Set("X-Amz-Executed-Version", string(result.Executed))
	if result.FunctionError != "" {
		h.Set("X-Amz-Function-Error", result.FunctionError)
	}
	if req.LogTail {
		h.Set("X-Amz-Log-Result", base64.StdEncoding.EncodeToString(result.LogTail))
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

// dryRun answers a dry run.
func dryRun(w http.ResponseWriter, result controlplane.InvokeResult) {
	w.Header().Set("X-Amz-Executed-Version", string(result.Executed))
	write(w, http.StatusNoContent, "", nil)
}

// invocation reads a whole invocation, and what it holds of the budget for bodies
// until that is given back.
func (s *Server) invocation(w http.ResponseWriter, r *http.Request, requestID string, b *bounds) (req controlplane.InvokeRequest, held int64, err error) {
	if req, err = s.invokeRequest(r, b); err != nil {
		return req, 0, err
	}
	req.RequestID = requestID
	if req.Payload, held, err = s.body(w, r, b); err != nil {
		return req, 0, err
	}
	if req.DryRun {
		return req, held, nil
	}
	if err := checkPayload(&req); err != nil {
		s.bodies.give(held)
		return req, 0, notJSON(r, err)
	}
	return req, held, nil
}

// invokeRequest reads everything but the payload.
func (s *Server) invokeRequest(r *http.Request, b *bounds) (req controlplane.InvokeRequest, err error) {
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
	kind, err := invocationType(r.Header, b.operation)
	if err != nil {
		return req, err
	}
	req = controlplane.InvokeRequest{
		Function: ref.Name, Qualifier: ref.Qualifier, InvokedARN: s.functionARN(ref.Name, ref.Qualifier),
		DryRun: kind == types.InvocationTypeDryRun, ContentType: r.Header.Get("Content-Type"),
		TraceID: r.Header.Get("X-Amzn-Trace-Id"),
		LogTail: types.LogType(r.Header.Get("X-Amz-Log-Type")) == types.LogTypeTail && kind != types.InvocationTypeDryRun,
	}
	if !utf8.ValidString(req.ContentType) || !utf8.ValidString(req.TraceID) {
		return req, badRequest("The headers Content-Type and X-Amzn-Trace-Id of the request must be text.")
	}
	req.ClientContext, err = clientContext(r.Header.Get("X-Amz-Client-Context"))
	return req, err
}

// invocationType checks the headers that say how to invoke.
func invocationType(h http.Header, operation string) (types.InvocationType, error) {
	kind, logs := types.InvocationType(h.Get("X-Amz-Invocation-Type")), types.LogType(h.Get("X-Amz-Log-Type"))
	var c constraints
	if operation == streamOperation {
		kind := types.ResponseStreamingInvocationType(kind)
		enum(&c, "invocationType", kind, kind.Values())
	} else {
		enum(&c, "invocationType", kind, kind.Values())
	}
	enum(&c, "logType", logs, logs.Values())
	if err := c.err(); err != nil {
		return "", err
	}
	switch {
	case kind == types.InvocationTypeEvent:
		return "", invalidParameter("Asynchronous invocation is not available in this service yet. " +
			"Use the invocation type RequestResponse.")
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
