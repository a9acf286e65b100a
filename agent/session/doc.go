// Package session keeps the agent connected to its control services: it joins,
// holds one session stream and a few data connections to each, and downloads
// code over them. Every connection is dialled by the agent, under TLS 1.3.
//
// # Model
//
// A [Client] knows who the instance is: it exchanges the join token for a
// certificate once and keeps it under the identity directory. A [Session] uses
// it to follow every control service side by side: reports go to all, desired
// sets come from any of them and are ordered by the pool, by epoch and
// generation.
//
// # Invariants
//
//  1. A server is trusted only if its certificate chains to the authority whose
//     hash is in the join token, and names hearth-control.
//  2. Register is the first message of every stream; every message after it may
//     be repeated.
//  3. A control service that is away changes nothing for the others, nor for
//     what runs.
//
// # Failure
//
// Whatever breaks is dialled again after a wait between 100 ms and 5 s. The
// identity is complete once cert.pem exists, which is written last.
package session
