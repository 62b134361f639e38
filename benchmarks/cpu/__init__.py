"""What a plaintext request costs the server's processor, beside a bare loop without HTTP and a bare loop on h11.

Read `bare_trio`, `bare_h11`, `plaintext` (the servers), `__main__` (how they are measured).
"""
