package lambdaapi

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream"
	"github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream/eventstreamapi"

	"github.com/hearth-compute/hearth/controlplane"
)

const (
	streamOperation   = "InvokeWithResponseStream"
	streamContentType = "application/vnd.amazon.eventstream"
	// streamMemory is what an answer takes whose caller does not read it: what the
	// router has received of it then, and a piece on its way.
	streamMemory = 640 << 10
)

// invokeStream serves InvokeWithResponseStream. What fails before the answer
// begins is answered as by Invoke; from then on the last event says what failed.
func (s *Server) invokeStream(w http.ResponseWriter, r *http.Request, requestID string) error {
	if !s.bodies.take(streamMemory) {
		discard(w, r, maxPayload)
		return noMemory()
	}
	defer s.bodies.give(streamMemory)
	req, held, err := s.invocation(w, r, requestID, &s.streamPayload)
	if err != nil {
		return err
	}
	defer func() { s.bodies.give(held) }()
	answer := &answerStream{w: w, control: http.NewResponseController(w), encoder: eventstream.NewEncoder(), request: &req}
	if !req.DryRun {
		req.Stream = answer
	}
	result, err := s.invoked(r, &req, streamOperation)
	switch {
	case err != nil && !answer.begun:
		return err
	case err != nil:
		s.logFailure(r, requestID, streamOperation, err)
		e := asException(err)
		return answer.complete(e.name, e.message)
	case req.DryRun:
		dryRun(w, result)
		return nil
	}
	answer.log = base64.StdEncoding.EncodeToString(result.LogTail)
	answer.version = cmp.Or(result.Executed, answer.version)
	return answer.complete(result.FunctionError, string(result.Payload))
}

// answerStream encodes an answer as events as it comes. It implements
// controlplane.AnswerStream.
type answerStream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	encoder *eventstream.Encoder
	// chunk are the headers of every piece.
	chunk   eventstream.Headers
	version controlplane.Qualifier
	request *controlplane.InvokeRequest
	begun   bool
	// log is the end of the invocation's, in base64; empty unless it was asked for.
	log string
}

// Executing implements controlplane.AnswerStream.
func (a *answerStream) Executing(version controlplane.Qualifier) { a.version = version }

// Begin implements controlplane.AnswerStream. The content type of the events is
// the answer's own at AWS too; the function's is not sent.
func (a *answerStream) Begin(string) error {
	a.begun = true
	h := a.w.Header()
	h.Set("Content-Type", streamContentType)
	h.Set("X-Amz-Executed-Version", string(a.version))
	if a.request.TraceID != "" {
		h.Set("X-Amzn-Trace-Id", a.request.TraceID)
	}
	_ = a.control.SetWriteDeadline(time.Now().Add(answerTime))
	a.w.WriteHeader(http.StatusOK)
	return a.control.Flush()
}

// Write implements controlplane.AnswerStream: a piece is an event.
func (a *answerStream) Write(piece []byte) (int, error) {
	if a.chunk == nil {
		a.chunk = eventHeaders("PayloadChunk", "application/octet-stream")
	}
	if err := a.send(eventstream.Message{Headers: a.chunk, Payload: piece}); err != nil {
		return 0, err
	}
	return len(piece), nil
}

// complete sends the last event; code and details are empty unless the answer is
// not complete. Its caller may have left.
func (a *answerStream) complete(code, details string) error {
	if !a.begun {
		if err := a.Begin(""); err != nil {
			return nil //nolint:nilerr // nobody is there to tell
		}
	}
	text, err := json.Marshal(struct {
		ErrorCode    string `json:",omitempty"`
		ErrorDetails string `json:",omitempty"`
		LogResult    string `json:",omitempty"`
	}{code, details, a.log})
	if err != nil {
		return fmt.Errorf("encoding the end of an answer: %w", err)
	}
	_ = a.send(eventstream.Message{Headers: eventHeaders("InvokeComplete", "application/json"), Payload: text})
	return nil
}

// send writes one event at once, within its time.
func (a *answerStream) send(m eventstream.Message) error {
	_ = a.control.SetWriteDeadline(time.Now().Add(answerTime))
	if err := a.encoder.Encode(a.w, m); err != nil {
		return err
	}
	return a.control.Flush()
}

func eventHeaders(event, contentType string) eventstream.Headers {
	return eventstream.Headers{
		{Name: eventstreamapi.MessageTypeHeader, Value: eventstream.StringValue(eventstreamapi.EventMessageType)},
		{Name: eventstreamapi.EventTypeHeader, Value: eventstream.StringValue(event)},
		{Name: eventstreamapi.ContentTypeHeader, Value: eventstream.StringValue(contentType)},
	}
}
