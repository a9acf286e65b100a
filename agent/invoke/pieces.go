package invoke

import (
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/hearth-compute/hearth/proto/frame"
	invokev1 "github.com/hearth-compute/hearth/proto/hearth/invoke/v1"
)

// The numbers of the fields that have pieces of payloads.
const (
	fieldChunk protowire.Number = 2 // of InvokeStreamRequest and InvokeStreamResponse
	fieldTaken protowire.Number = 1 // of TakeAnswerResponse
)

// Pieces lets a gRPC server receive events, and send answers, without a copy of
// each piece. A [Server] needs it.
func Pieces() grpc.ServerOption { return grpc.ForceServerCodecV2(frame.New()) }

// sendPieces sends a payload, which does not change any more.
func sendPieces(stream grpc.ServerStream, field protowire.Number, payload []byte) error {
	for rest := payload; len(rest) > 0; {
		n := min(pieceSize, len(rest))
		if err := stream.SendMsg(&frame.Piece{Field: field, Data: rest[:n]}); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// other checks a message that is not a piece with something in it.
func other(m proto.Message) error {
	if r, ok := m.(*invokev1.InvokeStreamRequest); ok && r.GetHead() != nil {
		return fmt.Errorf("second head on a stream: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}
