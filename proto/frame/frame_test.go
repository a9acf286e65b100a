package frame_test

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/mem"

	"github.com/hearth-compute/hearth/proto/frame"
	invokev1 "github.com/hearth-compute/hearth/proto/hearth/invoke/v1"
)

// FuzzPieces sends bytes as a message: what is taken for a piece is one for
// protocol buffers too, and what is not is left to them.
func FuzzPieces(f *testing.F) {
	f.Add([]byte("\x12\x02ok"), 2)
	f.Add([]byte("\x12\x02ok\x12\x03one"), 1)
	f.Add([]byte("\x12\x05ok"), 0)
	f.Add([]byte("\x0a\x00"), 3)
	f.Add([]byte("\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01x"), 3)
	f.Add([]byte{}, 1)
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		wire := mem.BufferSlice{mem.SliceBuffer(data)}
		if cut > 0 && cut < len(data) {
			wire = mem.BufferSlice{mem.SliceBuffer(data[:cut]), mem.SliceBuffer(data[cut:])}
		}
		var plain, other invokev1.InvokeStreamResponse
		in := frame.Into{Field: 2, Room: []byte("before "), Most: 1 << 20, Other: &other}
		want, got := frame.New().Unmarshal(wire, &plain), frame.New().Unmarshal(wire, &in)
		if (want == nil) != (got == nil) {
			t.Fatalf("got %v, want %v", got, want)
		}
		if want != nil {
			return
		}
		piece := other.GetChunk()
		if !in.IsOther {
			piece = bytes.TrimPrefix(in.Room, []byte("before "))
		}
		if !bytes.Equal(piece, plain.GetChunk()) || in.IsTooLong || in.IsOther && other.String() != plain.String() {
			t.Fatalf("got %q %+v, want %v", piece, in.IsOther, &plain)
		}
	})
}

func TestAPieceIsOnTheWireWhatItsMessageIs(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 127, 128, 64 << 10} {
		chunk := bytes.Repeat([]byte("x"), size)
		piece, err := frame.New().Marshal(&frame.Piece{Field: 2, Data: chunk})
		if err != nil {
			t.Fatal(err)
		}
		message, err := frame.New().Marshal(&invokev1.InvokeStreamRequest{Message: &invokev1.InvokeStreamRequest_Chunk{Chunk: chunk}})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(piece.Materialize(), message.Materialize()) {
			t.Errorf("a piece of %d bytes is not what its message is", size)
		}
	}
}

func TestAPieceLargerThanItsRoomIsDropped(t *testing.T) {
	t.Parallel()
	wire, err := frame.New().Marshal(&frame.Piece{Field: 1, Data: []byte("four")})
	if err != nil {
		t.Fatal(err)
	}
	in := frame.Into{Field: 1, Room: []byte("be"), Most: 5, Other: &invokev1.TakeAnswerResponse{}}
	if err := frame.New().Unmarshal(wire, &in); err != nil || !in.IsTooLong || string(in.Room) != "be" {
		t.Errorf("got %+v, %v", in, err)
	}
	in.Most = 6
	if err := frame.New().Unmarshal(wire, &in); err != nil || in.IsTooLong || in.IsOther || string(in.Room) != "befour" {
		t.Errorf("got %+v, %v", in, err)
	}
}
