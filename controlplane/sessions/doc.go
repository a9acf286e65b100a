// Package sessions is the control service's side of every connection an agent
// dials: joining, the session stream, code downloads and the data connections
// on which invokes travel the other way.
//
// # Model
//
// One port, TLS 1.3, told apart by ALPN: "h2" carries gRPC with us as the
// server, "hearth-data/1" carries gRPC with us as the client. An agent proves
// who it is with the certificate it got for its join token; Join alone needs
// none.
//
// # Invariants
//
//  1. The instance a message counts for is the one in the certificate, never
//     one named in a message.
//  2. Of two sessions of one instance the newer wins; the older is ended.
//  3. The last desired set given to Desire reaches the agent, also after it or
//     we were away; an older one is never sent after a newer one.
//
// # Concurrency
//
// Everything may be called concurrently. One mutex guards the agents' latest
// words; it is never held across I/O.
package sessions
