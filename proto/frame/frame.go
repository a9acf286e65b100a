// Package frame moves pieces of payloads over gRPC without a copy of each in a
// message of its own. What is on the wire is the same: the other side need not
// know.
//
// A [Piece] is sent from where it is and an [Into] received to where it belongs,
// on streams of the generated clients and servers, with SendMsg and RecvMsg. Both
// need the [Codec].
package frame

import (
	"encoding/binary"
	"io"
	"slices"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec beneath
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Piece is a message to send whose only field is a piece of a payload.
type Piece struct {
	// Field is the number of the field.
	Field protowire.Number
	// Data must not change any more, also after it was sent.
	Data []byte
}

// Into is a message to receive.
type Into struct {
	// Field is the number of the field with pieces.
	Field protowire.Number
	// Room is what a piece is appended to.
	Room []byte
	// Most is how long Room may become. IsTooLong says that it would have, and that
	// the piece was dropped.
	Most      int
	IsTooLong bool
	// Other gets a message that is not a piece; IsOther says that it did.
	Other   proto.Message
	IsOther bool
}

// Codec is that of protocol buffers, and of pieces.
type Codec struct{ beneath encoding.CodecV2 }

// New returns the codec.
func New() Codec { return Codec{encoding.GetCodecV2("proto")} }

// Name implements encoding.CodecV2.
func (Codec) Name() string { return "proto" }

// Marshal implements encoding.CodecV2.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	p, ok := v.(*Piece)
	if !ok {
		return c.beneath.Marshal(v)
	}
	head := protowire.AppendTag(make([]byte, 0, 2*binary.MaxVarintLen64), p.Field, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(len(p.Data)))
	return mem.BufferSlice{mem.SliceBuffer(head), mem.SliceBuffer(p.Data)}, nil
}

// Unmarshal implements encoding.CodecV2.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*Into)
	if !ok {
		return c.beneath.Unmarshal(data, v)
	}
	r := data.Reader()
	defer func() { _ = r.Close() }()
	tag, err := binary.ReadUvarint(r)
	size := uint64(0)
	if err == nil && tag == protowire.EncodeTag(m.Field, protowire.BytesType) {
		size, err = binary.ReadUvarint(r)
	}
	if m.IsOther = err != nil || size == 0 || size != uint64(r.Remaining()); m.IsOther { //nolint:gosec // not negative
		proto.Reset(m.Other)
		return c.beneath.Unmarshal(data, m.Other)
	}
	n, more := len(m.Room), int(size)
	if m.IsTooLong = more > m.Most-n; m.IsTooLong {
		return nil // gRPC would give an error of its own to the other side
	}
	m.Room = slices.Grow(m.Room, more)[:n+more]
	_, err = io.ReadFull(r, m.Room[n:])
	return err
}
