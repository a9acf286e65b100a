package logs

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hearth-compute/hearth/agent"
)

// load finds what earlier processes kept. What is no segment is left alone.
func (s *Store) load() error {
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(s.cfg.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		j := &journal{store: s, tags: Tags{Environment: agent.EnvironmentID(e.Name())}}
		if err := j.load(); err != nil {
			s.cfg.Log.Warn("logs of an environment cannot be read", "environment", e.Name(), "err", err)
			continue
		}
		if len(j.segments) > 0 {
			s.journals[j.tags.Environment] = j
		}
	}
	return nil
}

// load finds the segments of a journal.
func (j *journal) load() error {
	entries, err := os.ReadDir(j.dir())
	if err != nil {
		return err
	}
	for _, e := range entries {
		digits, ok := strings.CutSuffix(e.Name(), ".log")
		number, err := strconv.ParseInt(digits, 10, 64)
		if !ok || err != nil || number < 1 || filepath.Base(j.path(number)) != e.Name() {
			continue
		}
		j.last = max(j.last, number)
		found, err := j.inspect(number)
		if err != nil { // it was begun and not finished
			_ = os.Remove(j.path(number))
			continue
		}
		j.segments = append(j.segments, found)
		j.store.bytes.Add(found.blocks())
	}
	slices.SortFunc(j.segments, func(a, b segment) int { return int(a.number - b.number) })
	return nil
}

// inspect reads what a segment says about itself.
func (j *journal) inspect(number int64) (found segment, err error) {
	f, err := os.Open(j.path(number))
	if err != nil {
		return found, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return found, err
	}
	line, err := bufio.NewReader(io.LimitReader(f, blockBytes)).ReadBytes('\n')
	if err != nil {
		return found, err
	}
	h, err := parseHeader(line[:len(line)-1])
	if err != nil || h.Environment != j.tags.Environment {
		return found, errors.Join(err, errRecord)
	}
	j.tags = h.Tags
	return segment{number: number, first: h.First, size: info.Size(), last: info.ModTime()}, nil
}
