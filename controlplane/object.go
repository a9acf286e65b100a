package controlplane

import "fmt"

// Object is an object in a bucket. An empty Version means the latest.
type Object struct{ Bucket, Key, Version string }

// ObjectTooLarge is the Code of an ObjectError about an object that was not
// read because of its size. It is ours; the others are S3's.
const ObjectTooLarge = "EntityTooLarge"

// ObjectError is an object that cannot be had, in S3's words. Its class is
// InvalidArgument.
type ObjectError struct {
	Object Object
	// Code is S3's, such as NoSuchKey; Message is what it says.
	Code, Message string
}

func (e *ObjectError) Error() string {
	return fmt.Sprintf("reading %s from bucket %s: %s: %s", e.Object.Key, e.Object.Bucket, e.Code, e.Message)
}

// InvalidParameter is the class of containerd/errdefs.
func (*ObjectError) InvalidParameter() {}
