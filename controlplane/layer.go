package controlplane

import "time"

// LayerName is the name of a layer.
type LayerName string

// Layer is a layer: the count of its versions, which outlives them.
type Layer struct {
	Name LayerName
	// NextNumber is the number the next version gets, from 1. No number is given
	// twice.
	NextNumber int64
}

// LayerVersion is one version of a layer. It never changes but for its policy.
type LayerVersion struct {
	Layer  LayerName
	Number int64
	// ARN has the number.
	ARN         string
	Code        Code
	Description string
	LicenseInfo string
	// Runtimes and Architectures are what the publisher says it is for. Nothing
	// acts on them.
	Runtimes, Architectures []string
	// Policy says who may use it. Kept and returned only.
	Policy    Policy
	CreatedAt time.Time
}

// AttachedLayer is a layer version as a function has it: the version may be
// deleted while functions use it.
type AttachedLayer struct {
	ARN  string
	Code Code
}
