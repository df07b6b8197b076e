#!/bin/sh
# The first process of a machine of its own: makes a root in memory, and becomes systemd there.
#
#   boot.sh FOLDER PYTHON PACKAGES    in namespaces of its own; FOLDER is an empty one for the root
#
# Programs are those of this machine, below a layer of the new one's own. Python's home and the
# packages that the project needs lie where units that may not look into anybody's home find them.
set -eu
root=$1 python=$2 packages=$3
version=$("$python/bin/python3" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')

mount -t tmpfs -o mode=755 root "$root"
cd "$root"
mkdir -p .above .below .old dev etc/systemd/system opt/python "opt/sluice/.venv/lib/$version/site-packages"
mkdir -p opt/sluice/.venv/bin proc root run sys usr var/lib var/log var/tmp
mkdir -m 1777 tmp
for name in bin lib lib64 sbin; do
    ln -s "usr/$name" "$name"
done
mount -t overlay -o "lowerdir=/usr,upperdir=$root/.above,workdir=$root/.below" overlay usr

# What belongs to the kernel: seen, and not to be changed from here.
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
# One tree, whose root here is a group of this machine's; else systemd would build in all that there are.
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 dev dev
for name in full null random tty urandom zero; do
    : > "dev/$name"
    mount --bind "/dev/$name" "dev/$name"
done

ln -s pts/ptmx dev/ptmx

kept='group ld.so.conf ld.so.conf.d login.defs nsswitch.conf pam.d passwd security ssl/openssl.cnf'
for name in $kept; do
    [ ! -e "/etc/$name" ] || (cd /etc && cp -a --parents "$name" "$root/etc")
done
tr -d - < /proc/sys/kernel/random/uuid > etc/machine-id
echo sluice > etc/hostname
echo '127.0.0.1 localhost sluice' > etc/hosts
# Who is logged in at which terminal is not asked here.
for unit in dbus.service dbus.socket getty.target systemd-logind.service; do
    ln -s /dev/null "etc/systemd/system/$unit"
done

mount --bind "$python" opt/python
mount -o remount,bind,ro opt/python
echo /opt/python/lib > etc/ld.so.conf.d/python.conf
ldconfig -r .
(
    cd opt/sluice/.venv
    mount --bind "$packages" "lib/$version/site-packages"
    mount -o remount,bind,ro "lib/$version/site-packages"
    printf 'home = /opt/python/bin\n' > pyvenv.cfg
    ln -s /opt/python/bin/python3 bin/python
    for name in celery dotenv flask gunicorn; do
        printf '#!/bin/sh\nexec /opt/sluice/.venv/bin/python -m %s "$@"\n' "$name" > "bin/$name"
        chmod 755 "bin/$name"
    done
)

pivot_root . .old
umount -l .old
rmdir .old
rights=-audit_control,-audit_read,-mac_admin,-sys_boot,-sys_module,-sys_rawio,-sys_time,-syslog
exec setpriv --bounding-set="$rights" env -i container=sluice /lib/systemd/systemd --log-target=journal
