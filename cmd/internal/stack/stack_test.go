package stack

import (
	"net"
	"testing"
)

func TestTakesAFreePortWhereTheDefaultIsTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	addr, ok := taken.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatalf("address of type %T", taken.Addr())
	}
	got, err := freeAddress(addr.Port)
	if err != nil {
		t.Fatal(err)
	}
	if got == taken.Addr().String() {
		t.Errorf("chose %s, which is taken", got)
	}
	l, err := net.Listen("tcp", got)
	if err != nil {
		t.Fatalf("the address chosen is not free: %v", err)
	}
	_ = l.Close()
}
