package proto_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/hearth-compute/hearth/proto"
)

// TestEverythingIsCommented: what grpcurl describes explains itself, down to
// each field.
func TestEverythingIsCommented(t *testing.T) {
	t.Parallel()
	files, err := proto.Files()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	files.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(f.Package()), "hearth.") {
			return true
		}
		walk(f, func(d protoreflect.Descriptor) {
			seen++
			if strings.TrimSpace(f.SourceLocations().ByDescriptor(d).LeadingComments) == "" {
				t.Errorf("%s has no comment", d.FullName())
			}
		})
		return true
	})
	if seen < 100 {
		t.Errorf("only %d messages, fields, services and methods found", seen)
	}
}

// walk visits everything in a file that may carry a comment.
func walk(f protoreflect.FileDescriptor, visit func(protoreflect.Descriptor)) {
	for i := range f.Services().Len() {
		s := f.Services().Get(i)
		visit(s)
		for j := range s.Methods().Len() {
			visit(s.Methods().Get(j))
		}
	}
	for i := range f.Messages().Len() {
		m := f.Messages().Get(i)
		visit(m)
		for j := range m.Fields().Len() {
			visit(m.Fields().Get(j))
		}
	}
	for i := range f.Enums().Len() {
		e := f.Enums().Get(i)
		visit(e)
		for j := range e.Values().Len() {
			visit(e.Values().Get(j))
		}
	}
}
