package invoke

import (
	"cmp"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hearth-compute/hearth/agent"
	invokev1 "github.com/hearth-compute/hearth/proto/hearth/invoke/v1"
)

// sendStream writes an answer as it comes. gRPC holds us up when the caller is
// slow, and that holds up the runtime. Once the caller has left, the rest is
// discarded as it comes: the invocation still runs.
func sendStream(stream grpc.BidiStreamingServer[invokev1.InvokeStreamRequest, invokev1.InvokeStreamResponse], out *agent.Outcome) error {
	head := &invokev1.ResponseHead{ContentType: out.ContentType}
	err := stream.Send(&invokev1.InvokeStreamResponse{Message: &invokev1.InvokeStreamResponse_Head{Head: head}})
	chunk := &invokev1.InvokeStreamResponse_Chunk{}
	message := &invokev1.InvokeStreamResponse{Message: chunk}
	for piece, ok := out.Stream.Next(); ok; piece, ok = out.Stream.Next() {
		if chunk.Chunk = piece; err == nil {
			err = stream.Send(message)
		}
	}
	ended := out.Stream.End()
	defer release(&ended)
	if err != nil {
		return err
	}
	e := end(&ended)
	if ended.FunctionError != "" {
		e.ErrorType, e.ErrorDocument = cmp.Or(ended.ErrorType, ended.FunctionError), ended.Payload
	}
	return stream.Send(&invokev1.InvokeStreamResponse{Message: &invokev1.InvokeStreamResponse_End{End: e}})
}

// end is what every answer ends with.
func end(out *agent.Outcome) *invokev1.ResponseEnd {
	return &invokev1.ResponseEnd{Duration: durationpb.New(out.Duration), LogTail: out.LogTail, Load: loadToProto(out.Load)}
}
