package lambdaapi

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// constraints collects what of a request breaks AWS's service model, and says
// it in AWS's words.
type constraints struct {
	broken []string
}

// err is nil when nothing is broken.
func (c *constraints) err() error {
	if len(c.broken) == 0 {
		return nil
	}
	many := "error"
	if len(c.broken) > 1 {
		many = "errors"
	}
	return &exception{name: "ValidationException", status: http.StatusBadRequest, message: fmt.Sprintf(
		"%d validation %s detected: %s", len(c.broken), many, strings.Join(c.broken, "; "))}
}

func (c *constraints) breaks(value, at, constraint string) {
	c.broken = append(c.broken, fmt.Sprintf("Value %s at '%s' failed to satisfy constraint: %s", value, at, constraint))
}

// required: the member must be there.
func (c *constraints) required(at string, there bool) {
	if !there {
		c.breaks("null", at, "Member must not be null")
	}
}

// text checks a string, if there is one. A max of 0 is none; a nil pattern too.
func (c *constraints) text(at string, value *string, minimum, maximum int, pattern *regexp.Regexp, shown string) {
	if value == nil {
		return
	}
	for _, broken := range textFaults(*value, minimum, maximum, pattern, shown) {
		c.breaks("'"+*value+"'", at, broken)
	}
}

func textFaults(value string, minimum, maximum int, pattern *regexp.Regexp, shown string) (faults []string) {
	if maximum > 0 && len(value) > maximum {
		faults = append(faults, fmt.Sprintf("Member must have length less than or equal to %d", maximum))
	}
	if len(value) < minimum {
		faults = append(faults, fmt.Sprintf("Member must have length greater than or equal to %d", minimum))
	}
	if pattern != nil && !pattern.MatchString(value) {
		faults = append(faults, "Member must satisfy regular expression pattern: "+shown)
	}
	return faults
}

// between checks a number, if there is one.
func between[N int32 | float64](c *constraints, at string, value *N, minimum, maximum N) {
	if value == nil {
		return
	}
	if *value < minimum || *value != *value { // NaN too
		c.breaks(fmt.Sprintf("'%v'", *value), at, fmt.Sprintf("Member must have value greater than or equal to %v", minimum))
	}
	if *value > maximum {
		c.breaks(fmt.Sprintf("'%v'", *value), at, fmt.Sprintf("Member must have value less than or equal to %v", maximum))
	}
}

// enum checks an enum, if it is set. all is what its Values method returns.
func enum[E ~string](c *constraints, at string, value E, all []E) {
	if value != "" && !slices.Contains(all, value) {
		c.breaks("'"+string(value)+"'", at, "Member must satisfy enum value set: "+shownList(all))
	}
}

// enums checks each element of a list of enums.
func enums[E ~string](c *constraints, at string, list, all []E) {
	for _, e := range list {
		if !slices.Contains(all, e) {
			c.breaks("'"+shownList(list)+"'", at, "Member must satisfy constraint: [Member must satisfy enum value set: "+shownList(all)+"]")
			return
		}
	}
}

// shownList is a list as messages have it.
func shownList[E ~string](list []E) string {
	texts := make([]string, len(list))
	for i, e := range list {
		texts[i] = string(e)
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

// length checks how many elements a list has, if there is one.
func length[E ~string](c *constraints, at string, list []E, minimum, maximum int) {
	if list == nil {
		return
	}
	value := "'" + shownList(list) + "'"
	if len(list) < minimum {
		c.breaks(value, at, fmt.Sprintf("Member must have length greater than or equal to %d", minimum))
	}
	if len(list) > maximum {
		c.breaks(value, at, fmt.Sprintf("Member must have length less than or equal to %d", maximum))
	}
}

// elements checks each element of a list of strings.
func (c *constraints) elements(at string, list []string, minimum, maximum int, pattern *regexp.Regexp, shown string) {
	for _, e := range list {
		if faults := textFaults(e, minimum, maximum, pattern, shown); len(faults) > 0 {
			c.breaks("'["+strings.Join(list, ", ")+"]'", at, "Member must satisfy constraint: ["+strings.Join(faults, ", ")+"]")
			return
		}
	}
}
