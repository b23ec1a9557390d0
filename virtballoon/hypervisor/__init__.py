"""The only package that imports libvirt and lxml, and that speaks QMP."""
