package sqlitestore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/rowhook/rowhook/relay"
)

const lockName = "rowhook.lock"

// lockFolder takes the folder's lock and writes into its file who holds it.
// The lock belongs to the open file: the kernel lets go of it when the process
// ends, however it ends. The file stays, since removing it would let two
// processes hold locks on two files of one name.
func lockFolder(dir string, now time.Time) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		holder, _ := io.ReadAll(io.LimitReader(f, 512))
		f.Close()
		who := strings.Join(strings.Fields(string(holder)), " ")
		if who == "" {
			who = "a process that has not said who it is"
		}
		return nil, fmt.Errorf("%w: it is held by %s", relay.ErrStoreLocked, who)
	}
	if err == nil {
		err = writeHolder(f, now)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return f, nil
}

func writeHolder(f *os.File, now time.Time) error {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	who := fmt.Sprintf("process %d on host %s since %s\n", os.Getpid(), host, now.UTC().Format(time.RFC3339))
	if _, err := f.WriteAt([]byte(who), 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(who)))
}
