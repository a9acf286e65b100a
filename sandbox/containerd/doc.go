// Package containerd runs sandboxes on containerd, versions 1.6 to 2.x, with
// runc, CNI's ptp and host-local plugins, and nftables.
//
// # Model
//
// One Driver is one tenant of a host: it owns a containerd namespace, a data
// directory, a subnet, an nftables table and the sandbox cgroups below a parent
// cgroup, and never touches anything else, so several drivers live side by side.
// A sandbox is
//
//	containerd container, its snapshot and its task, each named by the sandbox's id
//	DataDir/netns/ID         its network namespace, kept by a bind mount
//	DataDir/tmp/ID[.img]     the file system on /tmp and the sparse file behind it
//	DataDir/sandboxes/ID     the FIFOs of its two output streams
//	CgroupParent/sandbox-ID  its cgroup
//
// Labels are container labels with the prefix "hearth/"; metadata is a
// container extension, because labels are limited to 4 KiB.
//
// The table's chains only drop. If the host drops forwarded packets by default,
// as with Docker's iptables rules, allow the subnet there, too, or sandboxes
// reach nothing.
//
// # Spares
//
// Networks and file systems for /tmp can be made before they are asked for
// (Config.Spares), one at a time while nothing is being created. A spare has a
// name no sandbox can have, in all the places above. Create renames what has a
// name that can be changed (address lease, image file) and binds what has not
// (network namespace, /tmp) to its new place before it leaves the old one, so
// that at any moment all there is has the name of the spare or of the sandbox.
// Which spares there are is known to this process alone: to the next one they
// are orphans.
//
// # Concurrency
//
// Everything may be called concurrently. Operations on one sandbox wait for each
// other; operations on different ones do not.
//
// # Failure
//
// containerd, the mounts and the files above are the only state. Create makes
// network and /tmp first and the container after them, so what a crash leaves
// behind either belongs to a container (Remove deletes it) or is an orphan that
// Sweep finds by name. A container without a task, because Create was
// interrupted or its shim was lost, is reported as stopped with exit code -1.
// While nobody reads output, 64 KiB wait in each FIFO and then the program does.
//
// # Shutdown
//
// Close stops reading output and closes the connection; sandboxes run on, and
// spares stay until the next Open.
// Destroy removes everything the driver ever made.
package containerd
